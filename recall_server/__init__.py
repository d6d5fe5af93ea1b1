"""Recall: one package, one process per channel."""

import recsys as recsys  # before ONNX Runtime, which reads at import whether it may send data
