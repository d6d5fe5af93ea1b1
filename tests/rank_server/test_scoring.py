"""Graphs that take different parts of the menu, fed by one ranker; each made by hand, each with a known answer."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rank_server import graphs, onnx_graph
from rank_server.scoring import GRAPH_FILE, Ranker
from rank_server.trees import Trees
from recsys.bundle import FORMAT_VERSION, Bundle, ChannelPolicy, Manifest, ServingPolicy, golden
from recsys.catalogue import Catalogue
from recsys.domain import Candidates, History, RankQuery
from recsys.errors import BundleMismatch, ContractBroken, InvalidRequest
from recsys.features import FeatureStore, ItemEvents
from recsys.kernels import COMPILED
from tests.rank_server.ensembles import Split, write

CATALOGUE = Catalogue(
    np.asarray([10, 20, 30, 40], np.int64), np.full(4, 2000, np.int16), np.ones((4, 1), np.bool_), ("Drama",)
)
STORE = FeatureStore.build(
    CATALOGUE,
    ItemEvents(
        np.asarray([0, 0, 1], np.int32),
        np.asarray([10, 20, 30], np.int64),
        np.ones(3, np.float32),
        np.zeros(3, np.int32),
    ),
    cutoff=100,
    channels=("itemcf",),
)
MENU = {
    "features": (TensorProto.FLOAT, ["n", len(STORE.feature_names)]),
    "item_row": (TensorProto.INT64, ["n"]),
    "query_index": (TensorProto.INT64, ["n"]),
    "history_row": (TensorProto.INT64, ["q", "L"]),
    "history_value": (TensorProto.FLOAT, ["q", "L"]),
    "history_age": (TensorProto.FLOAT, ["q", "L"]),
    "history_mask": (TensorProto.BOOL, ["q", "L"]),
}


def query(item_ids: Sequence[int], history: History | None = None, as_of: int = 100) -> RankQuery:
    n = len(item_ids)
    ranks = np.arange(1, n + 1, dtype=np.int32)[:, None]
    candidates = Candidates.without_seeds(
        np.asarray(item_ids, np.int64),
        ("itemcf",),
        (1.0 / ranks).astype(np.float32),
        ranks,
    )
    return RankQuery(History.empty() if history is None else history, as_of, candidates)


def ranker(
    folder: Path,
    inputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    *,
    constants: dict[str, np.ndarray] | None = None,
    types: dict[str, int] | None = None,
    output: str = "score",
) -> Ranker:
    """A ranker around a graph of `nodes`."""
    known = MENU | {"surprise": (TensorProto.FLOAT, ["n"])}
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [
            helper.make_tensor_value_info(name, (types or {}).get(name, known[name][0]), known[name][1])
            for name in inputs
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    CATALOGUE.save(folder)
    STORE.save(folder)
    onnx.save(model, folder / GRAPH_FILE)
    return Ranker.open(folder)


def column(name: str) -> dict[str, np.ndarray]:
    return {"column": np.asarray(STORE.feature_names.index(name), np.int64)}


def by_feature(folder: Path, name: str) -> Ranker:
    """Scores with one feature."""
    return ranker(
        folder,
        ["features"],
        [helper.make_node("Gather", ["features", "column"], ["score"], axis=1)],
        constants=column(name),
    )


def by_item(folder: Path) -> Ranker:
    """Scores with the catalogue row."""
    return ranker(folder, ["item_row"], [helper.make_node("Cast", ["item_row"], ["score"], to=TensorProto.FLOAT)])


def test_a_graph_over_features_scores_each_candidate(tmp_path: Path) -> None:
    scores = by_feature(tmp_path, "itemcf_rank").score([query([30, 10, 20]), query([40])])
    assert [part.tolist() for part in scores] == [[1, 2, 3], [1]]
    assert all(part.dtype == np.float32 for part in scores)


def test_a_graph_over_items_alone_needs_no_features(tmp_path: Path) -> None:
    assert [part.tolist() for part in by_item(tmp_path).score([query([40, 10]), query([20])])] == [[3, 0], [1]]


def test_a_graph_may_attend_to_the_history(tmp_path: Path) -> None:
    """score = row of the candidate + sum over its query's history of mask * (row + value) * age."""
    nodes = [
        helper.make_node("Cast", ["history_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["history_row"], ["row"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["row", "history_value"], ["event"]),
        helper.make_node("Mul", ["event", "history_age"], ["aged"]),
        helper.make_node("Mul", ["aged", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axes"], ["by_query"], keepdims=0),
        helper.make_node("Gather", ["by_query", "query_index"], ["of_user"]),
        helper.make_node("Cast", ["item_row"], ["item"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["of_user", "item"], ["score"]),
    ]
    inputs = ["item_row", "query_index", "history_row", "history_value", "history_age", "history_mask"]
    attentive = ranker(tmp_path, inputs, nodes, constants={"axes": np.asarray([1], np.int64)})
    long = History.of([20, 77, 40], [98, 99, 90], values=[0.5, 9.0, 1.0])
    late = History.of([10], [500], values=[4.0])
    scores = attentive.score([query([10, 30], long), query([20]), query([40], late)])
    expected = (1 + 0.5) * 2 + (3 + 1.0) * 10
    assert [part.tolist() for part in scores] == [[expected, expected + 2], [1], [3]]


def test_a_mask_may_be_wanted_as_numbers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceSum", ["history_mask", "axes"], ["lengths"], keepdims=0),
        helper.make_node("Gather", ["lengths", "query_index"], ["score"]),
    ]
    counting = ranker(
        tmp_path,
        ["query_index", "history_mask"],
        nodes,
        constants={"axes": np.asarray([1], np.int64)},
        types={"history_mask": TensorProto.FLOAT},
    )
    assert [part.tolist() for part in counting.score([query([10], History.of([20, 30], [1, 2])), query([10, 20])])] == [
        [2],
        [0, 0],
    ]


def test_a_batch_is_scored_like_its_queries_one_by_one(tmp_path: Path) -> None:
    toy = by_feature(tmp_path, "fused_rank")
    rng = np.random.default_rng(0)
    batch = [query(rng.permutation([10, 20, 30, 40])[: rng.integers(0, 5)].tolist()) for _ in range(19)]
    together = toy.score(batch)
    assert [len(part) for part in together] == [len(one.candidates) for one in batch]
    for one, part in zip(batch, together, strict=True):
        assert part.tobytes() == toy.score([one])[0].tobytes()


def test_no_queries_and_no_candidates_have_no_scores(tmp_path: Path) -> None:
    toy = by_item(tmp_path)
    assert toy.score([]) == []
    assert [part.tolist() for part in toy.score([query([]), query([10])])] == [[], [0]]


def test_features_are_those_of_the_store(tmp_path: Path) -> None:
    toy, asked = by_item(tmp_path), query([20, 10], History.of([10], [50]))
    assert toy.feature_names == STORE.feature_names
    assert toy.features([asked])[0].tobytes() == STORE.features(asked).tobytes()
    assert toy.features([asked])[0][0, STORE.feature_names.index("user_events")] == pytest.approx(math.log1p(1))


@pytest.mark.parametrize("make", [by_item, lambda folder: by_feature(folder, "item_year")])
def test_an_unknown_candidate_is_the_callers_mistake(tmp_path: Path, make: object) -> None:
    with pytest.raises(InvalidRequest, match="55 is not in this bundle"):
        make(tmp_path).score([query([10]), query([10, 55])])  # type: ignore[operator]


def test_a_graph_off_the_menu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleMismatch, match="surprise"):
        ranker(tmp_path, ["surprise"], [helper.make_node("Identity", ["surprise"], ["score"])])


def test_a_graph_without_a_score_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["item_row"], ["logit"], to=TensorProto.FLOAT)
    with pytest.raises(BundleMismatch, match="logit"):
        ranker(tmp_path, ["item_row"], [node], output="logit")


def test_a_graph_that_loses_candidates_is_caught(tmp_path: Path) -> None:
    node = helper.make_node("ReduceSum", ["features"], ["score"], keepdims=0)
    with pytest.raises(ContractBroken, match="for 2 candidates"):
        ranker(tmp_path, ["features"], [node]).score([query([10, 20])])


def bundle(folder: Path, feature_names: tuple[str, ...]) -> Bundle:
    channels = (ChannelPolicy(name="itemcf", count=5, weight=1),)
    policy = ServingPolicy(channels=channels, rank_count=5, ranking="ranked", serving_clock="cutoff")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bundle_version="v1",
        purpose="evaluation",
        dataset="toy",
        cutoff=100,
        events_watermarks={},
        created="2024-01-01T00:00:00+00:00",
        software_version="0",
        feature_names=feature_names,
        index=None,
        policy=policy,
        roles={},
        files={},
    )
    return Bundle(folder, manifest)


def test_a_manifest_with_other_features_is_refused(tmp_path: Path) -> None:
    by_item(tmp_path)
    assert Ranker.load(bundle(tmp_path, STORE.feature_names)).feature_names == STORE.feature_names
    with pytest.raises(BundleMismatch, match="bundle v1: feature 0 is 'other'"):
        Ranker.load(bundle(tmp_path, ("other", *STORE.feature_names[1:])))
    with pytest.raises(BundleMismatch, match="publish again"):
        Ranker.load(bundle(tmp_path, STORE.feature_names[:-1]))


def tree_bundle(folder: Path) -> Bundle:
    """A bundle with golden requests whose ranker is one tree: 1 for the best of ItemCF, 2 for the others."""
    by_item(folder)
    tree = Split(STORE.feature_names.index("itemcf_rank"), 1.5, False, 1.0, 2.0)
    write(folder / GRAPH_FILE, [tree], width=len(STORE.feature_names), base_weight=0.0)
    golden.record_rank(folder, [query([10, 30, 20]), query([40])], Ranker.open(folder).score)
    return bundle(folder, STORE.feature_names)


def test_a_server_says_what_scores_and_answers_the_golden_requests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = tree_bundle(tmp_path)
    with caplog.at_level(logging.INFO):
        loaded = Ranker.load(made)
    form = "compiled trees" if COMPILED else "ONNX Runtime; kernels: "
    assert caplog.records[-1].message.startswith(f"the ranker of bundle v1 is scored by {form}")
    assert [scores.tolist() for scores in loaded.score([query([10, 30, 20]), query([40])])] == [[1, 2, 2], [1]]
    golden.check_rank(tmp_path, loaded.score)


@pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")
def test_scores_are_the_same_whether_unused_features_are_computed_or_not(tmp_path: Path) -> None:
    """One tree of each group of features, on all of them through ONNX Runtime, and compiled on what they use."""
    by_item(tmp_path)
    names = (
        *("item_year", "user_events", "cross_year_deviation", "cross_stage_count", "cross_all_similarity"),
        *("among_cross_all_similarity_rank", "itemcf_relative_score"),
    )
    forest = [
        Split(STORE.feature_names.index(name), 0.5, False, 0.25 * number, -0.5) for number, name in enumerate(names)
    ]
    write(tmp_path / GRAPH_FILE, forest, width=len(STORE.feature_names), base_weight=50.0)
    compiled = Ranker.open(tmp_path)
    whole = Ranker(STORE, onnx_graph.OnnxGraph(onnx_graph.open_session(tmp_path / GRAPH_FILE)))
    assert compiled.used_columns is not None
    assert len(compiled.used_columns) == len(names) + 1
    history = History.of([20, 40], [5, 50], values=[5, 1])
    batch = [query([10, 30, 20], history), query([]), query([40, 10]), query([20], history)]
    expected = [scores.tolist() for scores in whole.score(batch)]
    assert [scores.tolist() for scores in compiled.score(batch)] == expected
    assert [compiled.score([one])[0].tolist() for one in batch] == expected
    assert len({score for scores in expected for score in scores}) > 3


@pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")
def test_a_kernel_that_is_wrong_about_a_golden_request_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is right about the rows that are made up, which have no rank of 1."""
    made, right = tree_bundle(tmp_path), graphs.Ensemble
    used = Trees.read(tmp_path / GRAPH_FILE).used_columns().tolist()
    rank = used.index(STORE.feature_names.index("itemcf_rank"))

    class WrongAboutItems:
        def __init__(self, **arrays: object) -> None:
            self._right = right(**arrays)  # type: ignore[arg-type]

        def score(self, features: np.ndarray) -> np.ndarray:
            return self._right.score(features) + np.float32(0.5) * (features[:, rank] == 1)

    monkeypatch.setattr(graphs, "Ensemble", WrongAboutItems)
    unjudged = Ranker.open(tmp_path)
    with pytest.raises(BundleMismatch, match=r"request 0: score 0 is 1\.5, expected 1;"):
        golden.check_rank(tmp_path, unjudged.score)
    loaded = Ranker.load(made)
    assert "compiled trees differ from ONNX Runtime by 0.5 on 260 rows" in caplog.text
    golden.check_rank(tmp_path, loaded.score)
