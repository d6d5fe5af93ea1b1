"""The gateway: one request through all stages; the pipeline is gRPC-free."""
