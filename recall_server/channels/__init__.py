"""The recall channels, gRPC-free. `CHANNELS` is the registry: a new channel is one class and one line here."""
