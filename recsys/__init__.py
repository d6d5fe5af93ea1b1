"""What every process of the recommender must agree on."""

from __future__ import annotations

import os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later send usage data, hashes of the models included, to its maker unless told not to before it
# is imported. Nothing leaves a machine of ours by itself; whoever wants it sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
