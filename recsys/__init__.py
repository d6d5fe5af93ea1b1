"""What every process of the recommender must agree on."""

from __future__ import annotations

import os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and later send usage data, including hashes of the models, to the vendor unless this is set before
# it is imported. Set the variable to 0 to allow it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
