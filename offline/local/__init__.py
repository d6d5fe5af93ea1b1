"""All servers on this machine: what `make serve` starts, supervises and shows."""
