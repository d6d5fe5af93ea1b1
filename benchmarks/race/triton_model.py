"""The recommender as a model of Triton's Python backend, which gives each of its instances a process.

    RACE_BUNDLES=ROOT RACE_COUNT=10 tritonserver --model-repository=…

Imported by the model's own `model.py`, see `race.peers.Triton`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # only in the processes of the backend

from race.in_process import InProcess


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the bundle."""
        del args
        self._recommender = InProcess.open(Path(os.environ["RACE_BUNDLES"]))
        self._count = int(os.environ["RACE_COUNT"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers what has waited, as one batch; a request may hold several users itself."""
        users = [triton.get_input_tensor_by_name(request, "user_id").as_numpy()[:, 0] for request in requests]
        bodies = iter(self._recommender.bodies(np.concatenate(users).tolist(), self._count))
        columns = [np.asarray([[next(bodies)] for _ in own], np.object_) for own in users]
        return [triton.InferenceResponse([triton.Tensor("body", column)]) for column in columns]
