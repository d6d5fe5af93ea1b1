"""Peers run on the bench's own rows, in an environment of their own; see README.md."""
