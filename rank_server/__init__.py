"""The ranker behind gRPC: scoring is gRPC-free, the servicer converts."""
