"""What every serving process has in common: calls, computing, versions, health, telemetry, reflection."""
