"""What ONNX Runtime says about rows of features, in this process or in one of its own.

ONNX Runtime takes 20 MiB of a process that has loaded it once, for good. A server whose trees are compiled needs it for
a moment only, so it asks another process: `python -m rank_server.judge GRAPH < features.npy > scores.npy`.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Scores

Judge = Callable[[Path, NDArray[np.float32]], Scores]
"""float32[n]: what ONNX Runtime returns for a graph over float32[n, F] features; raises OSError, RuntimeError."""

SECONDS = 60.0
"""For a process to start, to load the graph, and to score some hundred rows."""


def judge_here(graph: Path, features: NDArray[np.float32]) -> Scores:
    """The scores by ONNX Runtime in this process."""
    from rank_server.onnx_graph import OnnxGraph, open_session

    return OnnxGraph(open_session(graph)).run({"features": features})


def judge_apart(graph: Path, features: NDArray[np.float32]) -> Scores:
    """The scores by a process that ends with them. Raises RuntimeError, with what it said, where it fails."""
    command = [sys.executable, "-m", "rank_server.judge", str(graph)]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, input=_bytes(features), capture_output=True, check=True, timeout=SECONDS
        )
        return _array(done.stdout)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)}: {error.stderr.decode(errors='replace')[-500:]}") from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise RuntimeError(f"{' '.join(command)}: {error}") from error


def _bytes(array: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _array(content: bytes) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.load(io.BytesIO(content), allow_pickle=False)
    return array


if __name__ == "__main__":
    sys.stdout.buffer.write(_bytes(judge_here(Path(sys.argv[1]), _array(sys.stdin.buffer.read()))))
