"""The ranker finds what the channels do not say, is never worse for it, and scores alike in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from offline.blend import BlendConfig, choose_policy, pool_policy
from offline.ranker import RankerConfig, boost, choose_rounds, direction, fused_scores, quality, train, usable
from offline.ranker_export import Base, export_onnx
from offline.samples import Samples, collect, feature_store, record_queries
from offline.splits import Window
from offline.targets import targets_of
from rank_server.scoring import GRAPH_FILE, Ranker
from recsys.domain import RecallQuery
from recsys.errors import ContractBroken, DataError
from recsys.features import FUSED
from tests.offline.tastes import DAY, NoiseChannel, TasteChannel, bare_samples, dataset_of_tastes, policy_of

CONFIG = RankerConfig(max_rounds=30, round_step=5, min_leaf_rows=20, threads=1)
T1, T2 = 70 * DAY, 85 * DAY
DATASET = dataset_of_tastes()
NAMES = feature_store(DATASET.snapshot(T1), policy_of()).feature_names


def samples_of(window: Window) -> Samples:
    snapshot = DATASET.snapshot(window.cutoff)
    channels = [NoiseChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    return collect(snapshot, channels, targets_of("all", DATASET, snapshot, window), policy=policy_of())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Samples of two earlier windows, and of the validation window."""
    root = tmp_path_factory.mktemp("samples")
    for name, window in {"early": Window(40 * DAY, T1), "late": Window(55 * DAY, T1), "held": Window(T1, T2)}.items():
        samples_of(window).save(root / name)
    return {name: root / name for name in ("early", "late", "held")}


def test_rounds_are_chosen_on_validation_and_the_better_order_is_served(folders: dict[str, Path]) -> None:
    choice = choose_rounds([folders["early"], folders["late"]], folders["held"], CONFIG, feature_names=NAMES)
    assert list(choice.curve) == [5, 10, 15, 20, 25, 30]
    assert choice.ranking == "ranked"
    assert choice.ranked == choice.curve[choice.rounds] > choice.blended
    again = choose_rounds([folders["early"], folders["late"]], folders["held"], CONFIG, feature_names=NAMES)
    assert again == choice


def test_a_ranker_that_learned_noise_is_not_served(folders: dict[str, Path], tmp_path: Path) -> None:
    """Where labels are the reverse of the truth in training, the blended order wins on validation."""
    samples = Samples.open(folders["late"])
    taste_rank = samples.features[:, NAMES.index("taste_rank")]
    wrong = (taste_rank > 1_000).astype(np.int8)
    replace(samples, labels=wrong).save(tmp_path)
    config = CONFIG.model_copy(update={"fused_weight": 0.0, "learning_rate": 0.3})
    assert choose_rounds([tmp_path], folders["held"], config, feature_names=NAMES).ranking == "blended"


def test_nothing_to_learn_from_serves_the_blended_order(folders: dict[str, Path], tmp_path: Path) -> None:
    samples = Samples.open(folders["late"])
    nothing = np.zeros_like(samples.labels)
    replace(samples, labels=nothing).save(tmp_path)
    assert choose_rounds([tmp_path], folders["held"], CONFIG, feature_names=NAMES).ranking == "blended"
    with pytest.raises(DataError, match="nothing to learn from"):
        train([tmp_path], tmp_path, CONFIG, rounds=5, feature_names=NAMES)


def test_the_exported_graph_serves(folders: dict[str, Path], tmp_path: Path) -> None:
    train([folders["early"], folders["late"]], tmp_path, CONFIG, rounds=10, feature_names=NAMES)
    snapshot = DATASET.snapshot(T1)
    snapshot.catalogue.save(tmp_path)
    feature_store(snapshot, policy_of()).save(tmp_path)
    ranker = Ranker.open(tmp_path)
    channels = [NoiseChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    targets = targets_of("all", DATASET, snapshot, Window(T1, T2))
    scores = np.concatenate(ranker.score(record_queries(snapshot, channels, targets, policy=policy_of())))
    held_out = Samples.open(folders["held"])
    assert quality(held_out, scores.astype(np.float64)) > quality(held_out, -np.arange(len(scores), dtype=np.float64))


def test_training_twice_gives_the_same_graph(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        train([folders["late"]], tmp_path / name, CONFIG, rounds=5, feature_names=NAMES)
    assert (tmp_path / "one" / GRAPH_FILE).read_bytes() == (tmp_path / "two" / GRAPH_FILE).read_bytes()


class _Liar:
    """A booster whose scores are not those of its trees."""

    def __init__(self, booster: object) -> None:
        self._booster = booster

    def __getattr__(self, name: str) -> object:
        return getattr(self._booster, name)

    def predict(self, features: np.ndarray, **options: object) -> np.ndarray:
        return self._booster.predict(features, **options) + 0.01


def test_a_graph_that_scores_otherwise_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    part = usable(Samples.open(folders["late"]), CONFIG)
    booster = boost([part], 3, CONFIG, feature_names=NAMES)
    base = Base(NAMES.index(FUSED), 50.0)
    assert export_onnx(booster, tmp_path / "honest.onnx", base=base, probe=part.features) < 1e-4
    graph = onnx.load(tmp_path / "honest.onnx").graph
    assert [node.name for node in graph.input] == ["features"]
    assert [node.name for node in graph.output] == ["score"]
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
    assert len(usable(samples, CONFIG.model_copy(update={"cold_share": 0.5})).groups) == 90
    assert len(usable(samples, CONFIG.model_copy(update={"cold_share": 0.0})).groups) == 60


def test_requests_without_both_kinds_teach_nothing() -> None:
    samples = bare_samples(np.zeros((7, 1), np.float32), [1, 1, 0, 0, 0, 1, 0], [2, 2, 0, 3], [1] * 4)
    part = usable(samples, CONFIG)
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
