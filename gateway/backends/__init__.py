"""The other processes as sources of the pipeline: channels, probes, circuit breakers."""
