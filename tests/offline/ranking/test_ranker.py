"""LightGBM finds what the channels do not say, is held back by what is known, and scores alike in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from offline.dataset.splits import Window
from offline.protocols.targets import targets_of
from offline.ranking.blend import BlendConfig, choose_policy, pool_policy
from offline.ranking.rankers.ranking_dataset import (
    LabelledWindow,
    RankingDataset,
    blended_quality,
    chosen_requests,
    quality,
)
from offline.ranking.rankers.trees import (
    LightGBMConfig,
    boost,
    choose_rounds,
    direction,
    fused_scores,
    parts_of,
    train,
)
from offline.ranking.rankers.trees_export import Base, export_onnx
from offline.ranking.samples import record_queries
from rank_server.trees import Trees
from recsys.domain import RecallQuery
from recsys.errors import ContractBroken, DataError
from recsys.features import FUSED
from tests.offline.ranking import ranking_datasets
from tests.offline.ranking.ranking_datasets import DATASET, NAMES, T1, T2, RankingData
from tests.offline.tastes import TasteChannel, bare_samples, policy_of

CONFIG = LightGBMConfig(max_rounds=30, round_step=5, leaves=4, min_leaf_rows=60, threads=1)


@pytest.fixture(scope="module")
def data() -> RankingData:
    return ranking_datasets.ranking_data()


def relabelled(dataset: RankingDataset, labels: np.ndarray) -> RankingDataset:
    """The last window only, labelled otherwise."""
    window = dataset.windows[-1]
    return replace(dataset, windows=(replace(window, samples=replace(window.samples, labels=labels)),))


def test_rounds_are_chosen_on_validation(data: RankingData) -> None:
    trial = choose_rounds(data.dataset, data.held_out.samples, CONFIG)
    assert list(trial.curve) == ["5", "10", "15", "20", "25", "30"]
    found = quality(data.held_out.samples, trial.scores)
    assert found == pytest.approx(trial.curve[str(trial.settings["rounds"])])
    assert found > blended_quality(data.held_out.samples)
    again = choose_rounds(data.dataset, data.held_out.samples, CONFIG)
    assert (again.settings, again.curve, again.scores.tobytes()) == (
        trial.settings,
        trial.curve,
        trial.scores.tobytes(),
    )


def test_a_ranker_that_learned_noise_is_worse_than_the_blended_order(data: RankingData) -> None:
    """Where labels are the reverse of the truth in training, the blended order wins on validation."""
    wrong = relabelled(data.dataset, 1 - data.dataset.windows[-1].samples.labels)
    config = CONFIG.model_copy(update={"fused_weight": 0.0, "learning_rate": 0.3})
    trial = choose_rounds(wrong, data.held_out.samples, config)
    assert quality(data.held_out.samples, trial.scores) < blended_quality(data.held_out.samples)


def test_nothing_to_learn_from_is_an_error(data: RankingData, tmp_path: Path) -> None:
    nothing = relabelled(data.dataset, np.zeros_like(data.dataset.windows[-1].samples.labels))
    assert data.dataset.has_signal
    assert not nothing.has_signal
    with pytest.raises(DataError, match="nothing to learn from"):
        train(nothing, tmp_path / "ranker.onnx", CONFIG, rounds=5)


def test_training_twice_gives_the_same_graph(data: RankingData, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(data.dataset, tmp_path / name, CONFIG, rounds=5)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


class _Liar:
    """A booster whose scores are not those of its trees."""

    def __init__(self, booster: object) -> None:
        self._booster = booster

    def __getattr__(self, name: str) -> object:
        return getattr(self._booster, name)

    def predict(self, features: np.ndarray, **options: object) -> np.ndarray:
        return self._booster.predict(features, **options) + 0.01


def test_a_graph_that_scores_otherwise_is_an_error(data: RankingData, tmp_path: Path) -> None:
    part = parts_of(data.dataset)[-1]
    booster = boost([part], 3, CONFIG, feature_names=NAMES)
    base = Base(NAMES.index(FUSED), 50.0)
    assert export_onnx(booster, tmp_path / "honest.onnx", base=base, probe=part.features) < 1e-4
    graph = onnx.load(tmp_path / "honest.onnx").graph
    assert [node.name for node in graph.input] == ["features"]
    assert [node.name for node in graph.output] == ["score"]
    trees = Trees.read(tmp_path / "honest.onnx")
    assert len(trees.leaf_start) - 1 == booster.num_trees()
    assert set(trees.used_columns()) == {*np.flatnonzero(booster.feature_importance()), NAMES.index(FUSED)}
    with pytest.raises(ContractBroken, match="differ from LightGBM"):
        export_onnx(_Liar(booster), tmp_path / "lie.onnx", base=base, probe=part.features)


def test_trees_may_not_contradict_what_is_known() -> None:
    known = {name: direction(name) for name in NAMES}
    assert known["taste_rank"] == known["best_rank"] == -1
    assert known["taste_relative_score"] == known[FUSED] == known["item_count_30d"] == known["channels_returned"] == 1
    assert known["user_events"] == known["item_year"] == known["item_trend_7d_30d"] == 0


def test_cold_requests_are_a_bounded_share() -> None:
    """60 warm and 100 cold requests of one relevant and one irrelevant candidate each."""
    n = 160
    samples = bare_samples(np.zeros((2 * n, 1), np.float32), [1, 0] * n, [2] * n, [1] * n)
    samples = replace(samples, warm=np.arange(n) < 60)
    assert [int(chosen_requests(samples, share, seed=1).sum()) for share in (0.5, 0.0)] == [90, 60]
    assert chosen_requests(samples, 0.5, seed=1)[:60].all()


def test_requests_without_both_kinds_teach_nothing() -> None:
    samples = bare_samples(np.zeros((7, 1), np.float32), [1, 1, 0, 0, 0, 1, 0], [2, 2, 0, 3], [1] * 4)
    assert chosen_requests(samples, 1.0, seed=1).tolist() == [False, False, False, True]
    dataset = RankingDataset((LabelledWindow(samples, np.asarray([7])),), np.asarray([7]), NAMES)
    (part,) = parts_of(dataset)
    assert part.groups.tolist() == [3]
    assert part.labels.tolist() == [0, 1, 0]


def test_quality_counts_what_recall_missed() -> None:
    samples = bare_samples(np.zeros((3, 1), np.float32), [0, 1, 0], [3, 0], [1, 4])
    assert quality(samples, np.asarray([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    assert quality(samples, np.asarray([3.0, 2.0, 1.0])) == pytest.approx(0.5 / np.log2(3))


def test_the_trees_start_from_the_fused_order() -> None:
    features = np.zeros((2, len(NAMES)), np.float32)
    features[1, NAMES.index(FUSED)] = 0.5
    assert fused_scores(features, CONFIG, NAMES).tolist() == [0.0, 25.0]


class ContraryChannel(TasteChannel):
    """Items of the other genre first, under the name of the noise."""

    name = "noise"

    def scores(self, queries: Sequence[RecallQuery]) -> NDArray[np.float32]:
        scores = super().scores(queries)
        return np.where(np.isfinite(scores), -scores, scores)


def choose(weights: Sequence[float], retained: float) -> tuple[dict[str, float], int]:
    snapshot = DATASET.snapshot(T1)
    channels = [ContraryChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    targets = targets_of("all", DATASET, snapshot, Window(T1, T2))
    queries = record_queries(snapshot, channels, targets, policy=pool_policy(policy_of()))
    config = BlendConfig(weights=tuple(weights), rank_counts=(10, 30, 60), retained=retained)
    chosen = choose_policy(queries, targets, policy_of(noise=4.0), config)
    return {channel.name: channel.weight for channel in chosen.channels}, chosen.rank_count


def test_the_blend_prefers_the_channel_that_is_right() -> None:
    weights, count = choose((0.0, 0.25, 1.0, 4.0), retained=0.99)
    assert weights["taste"] > weights["noise"]
    assert count == 30


def test_the_rank_count_keeps_what_it_must() -> None:
    assert choose((0.0, 0.25, 1.0, 4.0), retained=0.01)[1] == 10
