"""Which ranker is published is chosen on validation; a blend is one graph; every kind is served."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from offline.ranking.rankers.choice import BLEND, RankerChoice, choose_ranker
from offline.ranking.rankers.comparison import BLENDED, REFERENCE, WITHOUT, rows_of, table
from offline.ranking.rankers.config import RankerConfig, RankerConfigs
from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankerTrial
from offline.ranking.rankers.steps import FoldSamples, RankerInputs, Rankers
from offline.ranking.rankers.svd import RatingConfig, train_rating_model
from offline.ranking.rankers.trees import LightGBMConfig
from offline.steps.workspace import Step, Workspace
from rank_server.scoring import GRAPH_FILE
from rank_server.servicer import answer
from recsys import convert
from recsys.v1 import rank_pb2
from tests.offline.ranking import ranking_datasets
from tests.offline.ranking.ranking_datasets import DATASET, NAMES, T1
from tests.offline.tastes import bare_samples

SAMPLES = bare_samples(np.zeros((6, 1), np.float32), [0, 1, 0, 0, 0, 1], [3, 3], [1, 1])
FIRST = RankerTrial({"rounds": 3}, np.asarray([0.0, 9.0, 1.0, 3.0, 2.0, 1.0]), {"3": 0.75})
SECOND = RankerTrial({"epochs": 1}, np.asarray([3.0, 2.0, 1.0, 0.0, 1.0, 9.0]), {})
"""The first is right about the first request, the second about the second."""


def test_the_best_on_validation_is_published() -> None:
    bad = RankerTrial({}, np.asarray([9.0, 0.0, 1.0, 9.0, 1.0, 0.0]), {})
    chosen = choose_ranker({"svd": bad, "lightgbm": FIRST}, SAMPLES, RankerConfig(blend_steps=1))
    assert chosen.ranker == "lightgbm"
    assert chosen.weights == {"lightgbm": 1.0}
    assert chosen.settings["lightgbm"] == {"rounds": 3}
    assert chosen.ranking == "ranked"
    assert chosen.rankers["lightgbm"] == chosen.ranked > chosen.rankers["svd"]


def test_a_blend_that_is_better_than_both_is_published() -> None:
    chosen = choose_ranker({"lightgbm": FIRST, "network": SECOND}, SAMPLES, RankerConfig())
    assert chosen.ranker == BLEND
    assert chosen.ranked == 1.0 > max(chosen.rankers["lightgbm"], chosen.rankers["network"])
    assert set(chosen.weights) == {"lightgbm", "network"}


def test_a_blend_that_leads_by_little_is_not_worth_two_graphs() -> None:
    trials = {"lightgbm": FIRST, "network": SECOND}
    chosen = choose_ranker(trials, SAMPLES, RankerConfig(blend_gain=0.5))
    assert chosen.ranker == "network"
    assert chosen.rankers[BLEND] == 1.0


def test_a_named_kind_is_published_whatever_is_better() -> None:
    config = RankerConfig(kind="network", candidates=("lightgbm",))
    assert config.tried == ("lightgbm", "network")
    chosen = choose_ranker({"lightgbm": FIRST, "network": RankerTrial({}, -SECOND.scores, {})}, SAMPLES, config)
    assert chosen.ranker == "network"
    assert chosen.ranking == "blended", "and is not used where the blended order is better"


def test_equals_go_to_the_first_and_a_kind_alone_before_a_blend() -> None:
    chosen = choose_ranker({"lightgbm": FIRST, "network": FIRST}, SAMPLES, RankerConfig())
    assert chosen.ranker == "lightgbm"


def test_without_a_trial_the_blended_order_is_served(tmp_path: Path) -> None:
    chosen = choose_ranker({}, SAMPLES, RankerConfig())
    assert (chosen.ranker, chosen.ranking, chosen.weights) == ("lightgbm", "blended", {"lightgbm": 1.0})
    chosen.save(tmp_path)
    assert RankerChoice.load(tmp_path) == chosen


def test_a_blend_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="two candidates"):
        RankerConfig(kind="blend")


WINDOWS = ("early", "late", "held")
NETWORK = NetworkConfig(
    embedding_size=4, hidden=8, experts=2, epochs=1, batch_size=32, candidates=20, history_limit=4, threads=1
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps of samples and of a rating model."""
    root = tmp_path_factory.mktemp("rankers")
    data = ranking_datasets.ranking_data()
    for name, window in zip(WINDOWS, (*data.dataset.windows, data.held_out), strict=True):
        window.samples.save(root / name)
    train_rating_model(DATASET.snapshot(T1), root / "rating", RatingConfig(factors=2, max_sweeps=2))
    return root


def steps(root: Path, ranker: RankerConfig) -> tuple[Rankers, RankerInputs, FoldSamples]:
    """Rankers over the toy data, whose samples count as finished steps."""
    configs = RankerConfigs(
        ranker,
        LightGBMConfig(max_rounds=10, round_step=5, min_leaf_rows=20, threads=1),
        NetworkConfig(
            embedding_size=4, hidden=8, experts=2, epochs=1, batch_size=32, candidates=20, history_limit=4, threads=1
        ),
        RatingConfig(),
    )
    data = ranking_datasets.ranking_data()
    *learned, validation = (
        FoldSamples(Step("samples", name, root / name, reused=True), window.item_ids)
        for name, window in zip(WINDOWS, (*data.dataset.windows, data.held_out), strict=True)
    )
    rating = Step("rating", "rating", root / "rating", reused=True)
    inputs = RankerInputs(learned, data.dataset.item_ids, rating)
    return Rankers(Workspace(root / ranker.kind / "work"), configs, NAMES), inputs, validation


@pytest.mark.parametrize("kind", ["lightgbm", "network", "svd", "blend"])
def test_every_kind_is_served(root: Path, kind: str) -> None:
    candidates = ("lightgbm", "network") if kind == "blend" else (kind,)
    rankers, inputs, validation = steps(root, RankerConfig(kind=kind, candidates=candidates))
    choice = rankers.choose(inputs, validation)
    trained = rankers.train(inputs, choice)
    assert RankerChoice.load(choice.folder).ranker == kind
    assert rankers.train(inputs, choice).reused
    folder = root / kind / "served"
    folder.mkdir()
    (folder / "rank").mkdir()
    (folder / GRAPH_FILE).write_bytes((trained.folder / GRAPH_FILE).read_bytes())
    ranker = ranking_datasets.served(folder)
    asked = ranking_datasets.queries()[:5]
    request = rank_pb2.RankRequest(queries=[convert.rank_query_to_proto(query) for query in asked])
    answers = answer(ranker, request).results
    expected = ranker.score(asked)
    assert [len(part.scores) for part in answers] == [len(query.candidates) for query in asked]
    for found, scores in zip(answers, expected, strict=True):
        assert np.asarray(found.scores, np.float32).tobytes() == scores.tobytes()
    assert len(np.unique(expected[0])) > 1


def test_a_blended_graph_is_the_weighted_sum_of_its_parts(root: Path) -> None:
    """Their inputs may differ, in type, too: the network reads the mask as it is, the rating model as numbers."""
    kinds = ("lightgbm", "network", "svd")
    rankers, inputs, validation = steps(root, RankerConfig(kind="blend", candidates=kinds, blend_steps=3))
    chosen = RankerChoice.load(rankers.choose(inputs, validation).folder)
    weights = {"lightgbm": 2.0, "network": 0.25, "svd": -0.5}
    forced = root / "forced"
    forced.mkdir(exist_ok=True)
    RankerChoice(BLEND, weights, chosen.settings, "ranked", 1.0, 0.0, {}, {}).save(forced)
    graphs = {}
    for name in kinds:
        alone = root / f"only-{name}"
        alone.mkdir(exist_ok=True)
        RankerChoice(name, {name: 1.0}, chosen.settings, "ranked", 1.0, 0.0, {}, {}).save(alone)
        graphs[name] = rankers.train(inputs, Step("choice", name, alone, reused=True)).folder
    graphs["sum"] = rankers.train(inputs, Step("choice", "sum", forced, reused=True)).folder
    scores = {}
    for name, folder in graphs.items():
        served = root / f"served-{name}"
        (served / "rank").mkdir(parents=True)
        (served / GRAPH_FILE).write_bytes((folder / GRAPH_FILE).read_bytes())
        scores[name] = np.concatenate(ranking_datasets.served(served).score(ranking_datasets.queries()[:8]))
    expected = sum(weight * scores[name] for name, weight in weights.items())
    assert np.abs(scores["sum"] - expected).max() < 1e-4


def test_rankers_are_compared_on_the_same_requests() -> None:
    held_out = LabelledWindow(SAMPLES, np.asarray([7]))
    rows = rows_of({"lightgbm": FIRST, "network": SECOND}, held_out)
    assert [row.ranker for row in rows] == ["blended order", "lightgbm", "network"]
    assert [row.ndcg for row in rows] == pytest.approx([(1 / np.log2(3) + 0.5) / 2, 0.75, (1 + 1 / np.log2(3)) / 2])
    assert rows[1].share == 1.0
    assert rows[1].difference == (0.0, 0.0)
    assert rows[2].share == pytest.approx(rows[2].ndcg / 0.75)
    lines = table(rows).splitlines()
    assert lines[2].split()[:3] == ["lightgbm", "0.7500", "1.000"]
    assert "rounds=3" in lines[2]


RESULTS = sorted((Path(__file__).parents[3] / "benchmarks" / "results" / "rankers").glob("*.json"))


def test_a_comparison_of_rankers_is_committed() -> None:
    assert RESULTS


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_committed_network_keeps_up_with_lightgbm_and_is_tried_without_each_part(path: Path) -> None:
    rows = {row["ranker"]: row for row in json.loads(path.read_text("utf-8"))["rows"]}
    assert set(rows) >= {BLENDED, REFERENCE, "network", *WITHOUT}
    assert {"network without DIN", "network without DCN-V2", "network without MMoE"} == set(WITHOUT)
    for row in rows.values():
        assert row["share"] == pytest.approx(row["ndcg"] / rows[REFERENCE]["ndcg"]), row["ranker"]
    assert rows["network"]["share"] >= 0.95
