"""The compiled trees score as ONNX Runtime does, or ONNX Runtime scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from rank_server import graphs
from rank_server.graphs import PROBES, Graph, open_graph
from rank_server.onnx_graph import OnnxGraph, open_session
from rank_server.trees import MAX_LEAVES, NotTrees, Trees
from recsys.kernels import COMPILED
from tests.rank_server.ensembles import WIDTH, Split, Tree, chain, write

compiled = pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")

VALUES = st.sampled_from([-1.5, 0.0, 0.25, 1.0, 3.0])
"""Few, so that a row often has exactly the value of a threshold."""
TREES = st.recursive(
    st.floats(-4, 4, width=32),
    lambda below: st.builds(Split, st.integers(0, WIDTH - 1), VALUES, st.booleans(), below, below),
    max_leaves=20,
)
JUST_ABOVE_ONE = float(np.nextafter(np.float32(1), np.float32(2)))
ODD = st.sampled_from([np.nan, np.inf, -np.inf, JUST_ABOVE_ONE])
ROWS = st.lists(st.lists(VALUES | ODD, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=300)


def with_finite_base(rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """The rows as features; infinity times a weight of 0 would be no number."""
    features = np.asarray(rows, np.float32)
    features[:, -1] = np.nan_to_num(features[:, -1], posinf=2.0, neginf=-2.0)
    return features


def run(graph: Graph, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores of rows of all features."""
    used = slice(None) if graph.used_columns is None else graph.used_columns
    return graph.run({"features": np.ascontiguousarray(features[:, used])})


@compiled
@given(trees=st.lists(TREES, min_size=1, max_size=8), rows=ROWS, weight=st.sampled_from([0.0, 0.3, 50.0]))
def test_scores_are_those_of_onnx_runtime_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, trees: list[Tree], rows: list[list[float]], weight: float
) -> None:
    path = write(tmp_path_factory.mktemp("trees") / "ranker.onnx", trees, base_weight=weight)
    features = with_finite_base(rows)
    graph = open_graph(path)
    assert graph.form == "compiled trees"
    expected = OnnxGraph(open_session(path)).run({"features": features})
    assert graph.by_row
    assert run(graph, features).tobytes() == expected.tobytes()
    assert [run(graph, row[None]).tobytes() for row in features] == [one.tobytes() for one in expected]


@compiled
@pytest.mark.parametrize("leaves", [1, 2, 31, 32, 33, 63, 64])
def test_trees_have_as_many_leaves_as_a_word_has_bits(leaves: int, tmp_path: Path) -> None:
    graph = open_graph(write(tmp_path / "ranker.onnx", [chain(leaves), 0.5], base_weight=0.0))
    features = np.zeros((leaves + 2, WIDTH), np.float32)
    features[:, 0] = [*range(leaves), -1.0, np.nan]
    scores = run(graph, features)
    assert graph.form == "compiled trees"
    assert scores.tolist() == [leaf + 0.5 for leaf in [*range(leaves), 0, leaves - 1]]


@compiled
def test_no_rows_have_no_scores_and_too_few_columns_are_an_error(tmp_path: Path) -> None:
    graph = open_graph(write(tmp_path / "ranker.onnx", [chain(3)]))
    assert graph.used_columns == (0, WIDTH - 1)
    assert graph.run({"features": np.empty((0, 2), np.float32)}).shape == (0,)
    with pytest.raises(ValueError, match="features of 1 columns, expected at least 2"):
        graph.run({"features": np.zeros((2, 1), np.float32)})


@compiled
def test_columns_that_a_score_depends_on(tmp_path: Path) -> None:
    tree = Split(3, 0.5, True, Split(1, 0.0, False, 1.0, 2.0), Split(3, 2.0, False, 3.0, 4.0))
    graph = open_graph(write(tmp_path / "ranker.onnx", [tree, 1.0]))
    assert graph.used_columns == (1, 3, WIDTH - 1)
    onnx = OnnxGraph(open_session(tmp_path / "ranker.onnx"))
    assert onnx.used_columns is None
    assert not onnx.by_row


@compiled
def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    graph = open_graph(write(tmp_path / "ranker.onnx", [chain(9), chain(40), chain(2)]))
    batches = [np.random.default_rng(seed).uniform(-1, 40, (500, WIDTH)).astype(np.float32) for seed in range(40)]
    alone = [run(graph, features) for features in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda features: run(graph, features), batches))
    assert [scores.tobytes() for scores in together] == [scores.tobytes() for scores in alone]


DOUBLED = helper.make_node("Add", ["raw", "raw"], ["score"])


@pytest.mark.parametrize(
    ("trees", "changes", "why"),
    [
        ([chain(MAX_LEAVES + 1)], {}, "tree 0 has more than 64 leaves"),
        ([1.0, chain(200)], {}, "tree 1 has more than 64 leaves"),
        ([chain(2)], {"nodes_modes": ["BRANCH_LT", "LEAF", "LEAF"]}, "is b'BRANCH_LT'"),
        ([chain(2)], {"nodes_values": [np.inf, 0.0, 0.0]}, "with threshold inf"),
        ([chain(2)], {"post_transform": "LOGISTIC"}, "post_transform is b'LOGISTIC'"),
        ([chain(2)], {"aggregate_function": "MAX"}, "aggregate_function is b'MAX'"),
        ([chain(2)], {"base_values": [1.0]}, "attributes base_values"),
        ([chain(2)], {"operators": [DOUBLED]}, "score is made by Add, expected Reshape"),
    ],
)
def test_what_the_kernel_cannot_do_is_left_to_onnx_runtime(
    trees: list[Tree], changes: dict[str, object], why: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "ranker.onnx", trees, **changes)
    features = np.random.default_rng(0).uniform(-1, 3, (50, WIDTH)).astype(np.float32)
    expected = OnnxGraph(open_session(path)).run({"features": features})
    graph = open_graph(path)
    assert isinstance(graph, OnnxGraph)
    assert graph.run({"features": features}).tobytes() == expected.tobytes()
    with pytest.raises(NotTrees, match=why):
        Trees.read(path)
    if COMPILED:
        assert why in graph.form


def test_a_circle_of_nodes_ends(tmp_path: Path) -> None:
    circle = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.0, 0.0, 0.0],
        "nodes_missing_value_tracks_true": [0, 0, 0],
        "nodes_truenodeids": [1, 1, 0],
        "nodes_falsenodeids": [2, 2, 0],
    }
    path = write(tmp_path / "ranker.onnx", [chain(2)], **circle)
    with pytest.raises(NotTrees, match="more than 64 leaves"):
        Trees.read(path)


def test_columns_are_those_of_the_input(tmp_path: Path) -> None:
    path = write(tmp_path / "ranker.onnx", [chain(2)], nodes_featureids=[WIDTH, 0, 0])
    with pytest.raises(NotTrees, match=r"columns \[5, 6\] of 6"):
        Trees.read(path)


@compiled
def test_trees_that_score_otherwise_than_onnx_runtime_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = graphs.Ensemble

    class Wrong:
        """As if a compiler had got one addition wrong, by a hundred-thousandth."""

        def __init__(self, **arrays: object) -> None:
            self._right = right(**arrays)  # type: ignore[arg-type]

        def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._right.score(features) + np.float32(1e-5)

    monkeypatch.setattr(graphs, "Ensemble", Wrong)
    path = write(tmp_path / "ranker.onnx", [chain(3)], base_weight=1.0)
    graph = open_graph(path)
    assert isinstance(graph, OnnxGraph)
    assert graph.form == "ONNX Runtime; compiled trees differ from it by 1e-05"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.message == f"{path}: compiled trees differ from ONNX Runtime by 1e-05 on {PROBES} rows"


def broken_judge(path: Path, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """A process that could not be started."""
    raise RuntimeError("no such process")


@compiled
def test_trees_that_nobody_judged_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "ranker.onnx", [chain(3)])
    graph = open_graph(path, judge=broken_judge)
    assert isinstance(graph, OnnxGraph)
    assert graph.form == "ONNX Runtime; compiled trees cannot be compared with it"
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, f"{path}: compiled trees cannot be compared with ONNX Runtime: no such process")
    ]


@compiled
def test_examples_are_scored_by_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that only an example shows: the kernel is right but for one value."""
    right = graphs.Ensemble

    class WrongAtSeven:
        def __init__(self, **arrays: object) -> None:
            self._right = right(**arrays)  # type: ignore[arg-type]

        def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.where(features[:, 0] == 7, np.float32(np.nan), self._right.score(features))

    monkeypatch.setattr(graphs, "Ensemble", WrongAtSeven)
    path = write(tmp_path / "ranker.onnx", [chain(3)])
    assert open_graph(path).form == "compiled trees"
    assert open_graph(path, examples=lambda: np.full((1, WIDTH), 6, np.float32)).form == "compiled trees"
    assert open_graph(path, examples=lambda: np.full((1, WIDTH), 7, np.float32)).form.startswith("ONNX Runtime")


def test_without_kernels_onnx_runtime_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs.kernels, "COMPILED", False)
    graph = open_graph(write(tmp_path / "ranker.onnx", [chain(3)]))
    assert isinstance(graph, OnnxGraph)
    assert graph.form.startswith("ONNX Runtime; kernels: ")
