"""The recall channels, gRPC-free; `recsys.channels` is their registry."""
