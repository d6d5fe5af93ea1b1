"""Graphs that ONNX Runtime runs. A server imports this module, and with it the library, only where it has to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from rank_server.graphs import Feed, Graph
from recsys.domain import Scores
from recsys.errors import BundleMismatch


class OnnxGraph(Graph):
    """Any graph from the menu to `score`."""

    def __init__(self, session: ort.InferenceSession, form: str = "ONNX Runtime") -> None:
        """Raises BundleMismatch unless `score` is the only output."""
        outputs = [node.name for node in session.get_outputs()]
        if outputs != ["score"]:
            raise BundleMismatch(f"the ranker's graph has the outputs {outputs}, expected score; export it again")
        self._session = session
        self.used_columns, self.by_row = None, False
        self.inputs = {node.name: node.type for node in session.get_inputs()}
        self.form = form

    def run(self, feed: Feed) -> Scores:
        """See `Graph`."""
        return np.asarray(self._session.run(["score"], feed)[0], np.float32)


def open_session(path: Path) -> ort.InferenceSession:
    """A session on one thread that never spins: a process does not have a core to itself."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
