"""The ranker behind gRPC: scoring is gRPC-free, the servicer converts."""

import recsys as recsys  # before ONNX Runtime, which reads at import whether it may send data
