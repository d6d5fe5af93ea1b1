"""ONNX Runtime says the same in a process of its own, and is then not needed in this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rank_server.judge import judge_apart, judge_here
from recsys.kernels import COMPILED
from tests.rank_server.ensembles import WIDTH, chain, write


def test_a_process_apart_returns_the_same_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "ranker.onnx", [chain(5), chain(2)])
    features = np.random.default_rng(0).uniform(-1, 6, (30, WIDTH)).astype(np.float32)
    features[0, 0] = np.nan
    assert judge_apart(path, features).tobytes() == judge_here(path, features).tobytes()


def test_what_went_wrong_apart_is_told(tmp_path: Path) -> None:
    (tmp_path / "ranker.onnx").write_bytes(b"no graph")
    with pytest.raises(RuntimeError, match=r"rank_server\.judge .*ranker\.onnx: [\s\S]*INVALID_PROTOBUF"):
        judge_apart(tmp_path / "ranker.onnx", np.zeros((1, WIDTH), np.float32))


PROGRAM = """
import sys
from pathlib import Path
from rank_server.graphs import open_graph
from rank_server.judge import judge_apart

print(open_graph(Path(sys.argv[1]), judge=judge_apart).form, "onnxruntime" in sys.modules)
"""


@pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")
@pytest.mark.parametrize(
    ("leaves", "said"),
    [(3, "compiled trees False"), (65, "ONNX Runtime; not compiled: tree 0 has more than 64 leaves True")],
)
def test_compiled_trees_need_no_onnx_runtime_in_their_process(leaves: int, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "ranker.onnx", [chain(leaves)])
    command = [sys.executable, "-c", PROGRAM, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{said}\n"
