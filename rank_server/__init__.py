"""The ranker behind gRPC: scoring is gRPC-free, the servicer converts."""

import recsys as recsys  # before ONNX Runtime, which reads what it may send home when it is imported
