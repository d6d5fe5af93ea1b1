"""How good lists are: in this process, and replayed through a running gateway."""
