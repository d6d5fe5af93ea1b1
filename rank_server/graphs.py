"""What scores the features of candidates: the bundle's ONNX graph, by ONNX Runtime or by the compiled trees.

ONNX Runtime judges: the compiled trees take its place only where they score alike.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rank_server.judge import Judge, judge_here
from rank_server.trees import NotTrees, Trees
from recsys import kernels
from recsys.domain import Scores

if kernels.COMPILED:
    from recsys.kernels._trees import Ensemble

logger = logging.getLogger(__name__)

TOLERANCE = 1e-6
"""Largest difference between a score of the compiled trees and that of ONNX Runtime, absolutely or relative to it."""
PROBES = 256
"""Rows around the thresholds of the trees that both score."""

Feed = dict[str, NDArray[Any]]
Features = NDArray[np.float32]


class Graph(ABC):
    """From inputs of the menu to one score per candidate."""

    inputs: Mapping[str, str]
    """The type of each input by name, in ONNX Runtime's words: `tensor(float)`."""
    used_columns: tuple[int, ...] | None
    """Columns of the features that a score depends on, ascending: those that `run` takes; None: all of them."""
    by_row: bool
    """Whether a candidate's score depends on its own row alone, to the bit: several queries may be one run."""
    form: str
    """What computes the scores, for the log."""

    @abstractmethod
    def run(self, feed: Feed) -> Scores:
        """float32[n]; `feed` has exactly `inputs`."""


class TreeGraph(Graph):
    """A tree ensemble over the features, compiled."""

    def __init__(self, trees: Trees) -> None:
        self._ensemble = Ensemble(**trees.arrays())
        self.inputs = {"features": "tensor(float)"}
        self.form = "compiled trees"
        self.used_columns = tuple(trees.used_columns().tolist())
        self.by_row = True

    def run(self, feed: Feed) -> Scores:
        """See `Graph`."""
        return self._ensemble.score(feed["features"])


def open_graph(path: Path, *, judge: Judge = judge_here, examples: Callable[[], Features] | None = None) -> Graph:
    """The graph at `path`, compiled where it is a tree ensemble that scores as ONNX Runtime does, else run by it.

    Both score rows around the thresholds of the trees, and those of `examples`, float32[n, F]. Where they differ, this
    software is at fault, or its compiler: that is logged as an error, and ONNX Runtime serves the graph as it is.
    """
    if not kernels.COMPILED:
        return _run_by_onnx_runtime(path, f"kernels: {kernels.form()}")
    try:
        trees = Trees.read(path)
    except NotTrees as reason:
        return _run_by_onnx_runtime(path, f"not compiled: {reason}")
    compiled, rows = TreeGraph(trees), trees.probes(PROBES)
    if examples is not None:
        rows = np.concatenate([rows, examples()])
    try:
        used = np.ascontiguousarray(rows[:, trees.used_columns()])
        difference = _largest_difference(judge(path, rows), compiled.run({"features": used}))
    except (RuntimeError, OSError) as error:  # no process could be started, or it ended
        logger.error("%s: compiled trees cannot be compared with ONNX Runtime: %s", path, error)  # noqa: TRY400
        return _run_by_onnx_runtime(path, "compiled trees cannot be compared with it")
    if difference > TOLERANCE:
        logger.error("%s: compiled trees differ from ONNX Runtime by %.2g on %d rows", path, difference, len(rows))
        return _run_by_onnx_runtime(path, f"compiled trees differ from it by {difference:.2g}")
    return compiled


def _run_by_onnx_runtime(path: Path, reason: str) -> Graph:
    from rank_server.onnx_graph import OnnxGraph, open_session  # a server of compiled trees never loads it

    return OnnxGraph(open_session(path), f"ONNX Runtime; {reason}")


def _largest_difference(expected: Scores, found: Scores) -> float:
    """Absolutely, or relative to scores above 1; infinite where one of them is no number."""
    apart = np.abs(found.astype(np.float64) - expected) / np.maximum(1.0, np.abs(expected))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))
