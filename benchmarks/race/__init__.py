"""The race: one bundle behind this system, other servers, and none; run it with `make race`."""
