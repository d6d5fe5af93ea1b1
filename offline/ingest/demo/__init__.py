"""The built-in `demo` data set: a catalogue of real films (facts) and deterministic synthetic users."""
