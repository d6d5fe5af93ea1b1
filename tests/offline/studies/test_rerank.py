"""Bonuses open the catalogue to those who lose least by it, and the curve says what that costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.rerank import BONUS_FILE, Reranker, genre_shares, relevance
from offline.dataset.splits import Window
from offline.evaluation.evaluate import BootstrapConfig, Figure, Models
from offline.evaluation.reranking.exposure import SHOWN, learn_bonus
from offline.evaluation.reranking.lists import RerankConfig, record_lists, reordered, sampled_requests, train_bonus
from offline.metrics.beyond_accuracy import divergence, intra_list_diversity, novelty
from offline.protocols.targets import Targets, targets_of
from offline.studies.rerank import report as rerank_report
from offline.studies.rerank.curve import Point, choose, curve, ndcg_at, save_curve, sweep
from offline.studies.rerank.report import flags_of, report_rerank
from offline.studies.rerank.result import RerankResult, rerank_section, text_table
from offline.workflow.config import OfflineConfig
from recsys.bundle import RerankPolicy
from recsys.domain import Ids
from recsys.errors import DataError, DataMalformed
from tests.offline.studies.toy_rerank import ToyWorkflow, a_result
from tests.offline.tastes import DAY, ITEMS, NoiseChannel, TasteChannel, dataset_of_tastes, policy_of

WINDOW = Window(60 * DAY, 100 * DAY)
DATASET = dataset_of_tastes()
SNAPSHOT = DATASET.snapshot(WINDOW.cutoff)
CONFIG = BootstrapConfig(resamples=50)


def models() -> Models:
    catalogue = SNAPSHOT.catalogue
    channels = [NoiseChannel(catalogue), TasteChannel(catalogue)]
    return Models(SNAPSHOT, channels, None, policy_of(), Fallback(catalogue, catalogue.item_ids))


@pytest.fixture(scope="module")
def targets() -> Targets:
    return targets_of("all", DATASET, SNAPSHOT, WINDOW)


def firsts(lists: list[Ids], bonus: NDArray[np.float32]) -> list[Ids]:
    """The first places of each list after the bonus."""
    return [rows[np.argsort(-relevance(len(rows)) - bonus[rows], kind="stable")][:SHOWN] for rows in lists]


def test_bonuses_show_every_item_to_those_who_lose_least_by_it() -> None:
    """40 lists that agree by and large: each of 30 items should be in two of them, the last five are in none."""
    rng = np.random.default_rng(2)
    lists = [np.argsort(np.arange(30) + rng.normal(0, 4, 30), kind="stable") for _ in range(40)]
    before = np.bincount(np.concatenate(firsts(lists, np.zeros(30, np.float32))), minlength=30)
    bonus = learn_bonus(lists, 30, largest=4.0, floor=2 / 40, sweeps=200)
    after = np.bincount(np.concatenate(firsts(lists, bonus)), minlength=30)
    assert bonus.dtype == np.float32
    assert (before[-5:] == 0).all()
    assert np.count_nonzero(after) >= 29
    assert (bonus[:8] == 0).all()
    assert 0 < bonus[22] < bonus[29] <= 4.0
    for rows, shown in zip(lists, firsts(lists, bonus), strict=True):
        if 29 in shown:
            places = [int(np.flatnonzero(other == 29)[0]) for other in lists]
            assert int(np.flatnonzero(rows == 29)[0]) <= np.median(places)


def test_no_bonus_without_lists_or_without_a_need() -> None:
    assert learn_bonus([], 4, largest=1.0, floor=0.1, sweeps=10).tolist() == [0, 0, 0, 0]
    shown_to_all = [np.asarray([2, 0, 1])] * 5
    assert learn_bonus(shown_to_all, 3, largest=1.0, floor=0.5, sweeps=10).tolist() == [0, 0, 0]


def test_an_item_that_is_in_no_list_has_the_largest_bonus() -> None:
    bonus = learn_bonus([np.arange(12)] * 8, 13, largest=2.0, floor=0.1, sweeps=400)
    assert bonus[12] == pytest.approx(2.0)
    assert bonus[:9].max() < 2.0


def test_without_weights_there_is_no_policy() -> None:
    assert RerankConfig().policy() is None
    assert RerankConfig(floor=0.5, depth=7).policy() is None
    asked = RerankConfig(exposure=2.0, depth=7, users=3).policy()
    assert asked == RerankPolicy(exposure=2.0, depth=7)


def test_recorded_lists_are_all_candidates_of_what_is_served(targets: Targets) -> None:
    lists = record_lists(models(), targets.requests)
    assert len(lists) == len(targets)
    for made, request in zip(lists, targets.requests, strict=True):
        assert sorted([*made.item_ids, *request.history.seen_item_ids()]) == list(range(1, ITEMS + 1))
        assert made.history.item_ids.tolist() == request.history.sequence().item_ids.tolist()


def test_users_are_drawn_once_each_and_the_same_again() -> None:
    config = RerankConfig(users=25)
    drawn = [request.user_id for request in sampled_requests(SNAPSHOT, config, 3)]
    assert len(set(drawn)) == 25
    assert drawn == [request.user_id for request in sampled_requests(SNAPSHOT, config, 3)]
    assert drawn != [request.user_id for request in sampled_requests(SNAPSHOT, config, 4)]
    assert set(drawn) <= set(SNAPSHOT.user_ids.tolist())
    everybody = sampled_requests(SNAPSHOT, RerankConfig(), 3)
    assert [request.user_id for request in everybody] == SNAPSHOT.user_ids.tolist()


def test_what_is_trained_is_what_the_gateway_opens(tmp_path: Path, targets: Targets) -> None:
    config = RerankConfig(exposure=4.0, floor=0.05)
    train_bonus(models(), config, tmp_path, seed=1)
    again = tmp_path / "again"
    train_bonus(models(), config, again, seed=1)
    assert (tmp_path / BONUS_FILE).read_bytes() == (again / BONUS_FILE).read_bytes()
    reranker = Reranker.open(tmp_path, SNAPSHOT.catalogue, RerankPolicy(exposure=4.0))
    lists = record_lists(models(), targets.requests)
    before, after = reordered(lists, None, SHOWN), reordered(lists, reranker, SHOWN)
    assert {len(made) for made in after} == {SHOWN}
    assert len(np.unique(np.concatenate(after))) > len(np.unique(np.concatenate(before)))


def test_the_curve_goes_from_accurate_to_wide(targets: Targets) -> None:
    settings = [RerankConfig(), RerankConfig(exposure=3.0, floor=0.1), RerankConfig(genre_calibration=20.0)]
    plain, wide, calibrated = curve(models(), targets, settings, bootstrap=CONFIG)
    assert [point.settings for point in (plain, wide, calibrated)] == settings
    assert wide.coverage > plain.coverage
    assert plain.ndcg.low < plain.ndcg.mean < plain.ndcg.high
    assert calibrated.genre_divergence < 0.1 * plain.genre_divergence
    assert calibrated.diversity < plain.diversity
    assert curve(models(), targets, settings[:1], bootstrap=CONFIG)[0].ndcg == plain.ndcg


def test_a_curve_needs_warm_requests(targets: Targets) -> None:
    cold = replace(targets, warm=np.zeros(len(targets), np.bool_))
    with pytest.raises(DataError, match="there is none; choose another cut-off"):
        curve(models(), cold, [RerankConfig()], bootstrap=CONFIG)


def point(ndcg: float, coverage: float, exposure: float = 0.0) -> Point:
    figure = Figure(ndcg, ndcg - 0.01, ndcg + 0.01)
    return Point(RerankConfig(exposure=exposure), figure, figure, coverage, 0.9, 8.0, 0.5, 0.5, 0.7, 0.1)


def test_the_best_of_those_that_cover_enough_is_chosen() -> None:
    points = [point(0.3, 0.05), point(0.28, 0.2, 3), point(0.25, 0.24, 5), point(0.26, 0.3, 4)]
    assert choose(points, coverage=0.23).settings.exposure == 4
    assert choose(points, coverage=0.0).ndcg.mean == 0.3
    with pytest.raises(DataError, match=r"covers 0\.5 of the catalogue, 0\.300 at most"):
        choose(points, coverage=0.5)
    assert ndcg_at(points, 0.125) == pytest.approx(0.29)
    assert ndcg_at(points, 0.5) is None


def test_a_curve_is_written_with_a_picture(tmp_path: Path) -> None:
    points = [point(0.3, 0.05), point(0.28, 0.2, 3)]
    save_curve(points, tmp_path / "report", name="toy", systems={"ease": (0.232, 0.2688)})
    written = json.loads((tmp_path / "report" / "toy.json").read_text("utf-8"))
    assert [entry["settings"] for entry in written["points"]] == [{}, {"exposure": 3.0}]
    assert written["points"][1]["ndcg"] == {"mean": 0.28, "low": 0.28 - 0.01, "high": 0.28 + 0.01}
    assert written["systems"] == {"ease": [0.232, 0.2688]}
    assert (tmp_path / "report" / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_a_sweep_tries_each_part_alone() -> None:
    tried = sweep((0.0, 2.0), (0.5,))
    assert [setting.model_dump(exclude_defaults=True) for setting in tried] == [
        {},
        {"exposure": 2.0},
        {"genre_calibration": 0.5},
        {"decade_calibration": 0.5},
        {"diversity": 0.5},
    ]


def test_a_sweep_keeps_what_is_no_weight() -> None:
    tried = sweep((2.0,), (0.5,), base=RerankConfig(floor=0.1, diversity=9.0))
    assert [setting.model_dump(exclude_defaults=True) for setting in tried] == [
        {"exposure": 2.0, "floor": 0.1},
        {"genre_calibration": 0.5, "floor": 0.1},
        {"decade_calibration": 0.5, "floor": 0.1},
        {"diversity": 0.5, "floor": 0.1},
    ]


def test_settings_as_flags() -> None:
    assert flags_of(RerankConfig(floor=0.1)) == ""
    wanted = RerankConfig(exposure=5.25, floor=0.004, genre_calibration=2.0)
    assert flags_of(wanted) == "--rerank.exposure 5.25 --rerank.floor 0.004 --rerank.genre-calibration 2"


def test_a_result_is_read_as_it_was_saved_and_shown_whole(tmp_path: Path) -> None:
    result = a_result()
    path = result.save(tmp_path)
    assert path.name == "rerank-time-to-split-toys-all.json"
    assert RerankResult.load(path) == result
    page, table = rerank_section(result), text_table(result)
    for text in (page, table):
        for part in (
            "0.2800 [0.2700, 0.2900]",
            "0.240",
            "`--rerank.exposure 5`.",
            "770 warm users",
            "coverage@10 of 0.23",
        ):
            assert part in text
    assert "```sh\npython -m offline rerank\n```" in page
    assert "The curve on validation, on which the setting was chosen:" in page
    assert "| as ranked | 0.3000 [0.2900, 0.3100] | 0.100 |\n" in page
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    with pytest.raises(DataMalformed, match="format 1, expected 2"):
        RerankResult.load(path)


@pytest.mark.parametrize("test_curve", [False, True])
def test_the_test_is_asked_for_what_was_chosen_and_for_all_that_was_tried_only_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test_curve: bool
) -> None:
    asked: list[tuple[str, list[float]]] = []

    def measured(
        models: object, targets: str, settings: Sequence[RerankConfig], *, bootstrap: object, seed: int
    ) -> list[Point]:
        exposures = [setting.exposure for setting in settings]
        asked.append((targets, exposures))
        return [point(0.3 - 0.01 * exposure, 0.1 * exposure, exposure) for exposure in exposures]

    figures = {f"{metric}@10": Figure(0.4, 0.3, 0.5) for metric in ("ndcg", "hit_rate")}
    row = SimpleNamespace(system="x", figures=figures, coverage={10: 0.1}, popularity={10: 0.9}, users=7, requests=8)
    monkeypatch.setattr(rerank_report, "curve", measured)
    monkeypatch.setattr(rerank_report, "produce_lists", lambda models, targets, wanted: dict.fromkeys(wanted))
    monkeypatch.setattr(rerank_report, "measure", lambda *_, **__: SimpleNamespace(row=lambda system: row))
    settings = sweep((0.0, 2.0, 3.0, 4.0), ())
    report = report_rerank(
        ToyWorkflow(OfflineConfig()),  # type: ignore[arg-type]
        tmp_path,
        kind="all",
        coverage=0.25,
        settings=settings,
        test_curve=test_curve,
    )
    assert report.chosen.exposure == 3.0
    assert asked == [("validation", [0.0, 2.0, 3.0, 4.0]), ("test", [0.0, 2.0, 3.0, 4.0] if test_curve else [3.0])]
    curves = {"rerank-validation.json", "rerank-validation.png"}
    curves |= {"rerank-test.json", "rerank-test.png"} if test_curve else set()
    assert {path.name for path in tmp_path.iterdir()} == {"rerank-chosen.json", *curves}
    if test_curve:
        assert "nothing is chosen on it" in json.loads((tmp_path / "rerank-test.json").read_text("utf-8"))["remark"]
    assert report.rows[0].ndcg.mean == pytest.approx(0.27)
    assert [found.ndcg.mean for found in report.curve] == pytest.approx([0.3, 0.28, 0.27, 0.26])


def test_properties_of_lists_by_hand() -> None:
    genres = np.asarray([[1, 0], [1, 0], [0, 1], [1, 1]], np.bool_)
    rows = [np.asarray(row, np.int64) for row in ([0, 1, 2], [0], [])]
    assert intra_list_diversity(rows, genres) == pytest.approx(2 / 3)
    assert novelty(rows, np.asarray([3, 1, 1, 0])) == pytest.approx((2 * np.log2(9 / 4) + 2 * np.log2(9 / 2)) / 4)
    same = divergence([np.asarray([0, 2])], [np.asarray([3])], genre_shares(genres))
    assert same == pytest.approx(0.0, abs=1e-12)
    q = np.asarray([0.99 + 0.005, 0.005])
    half = divergence([np.asarray([0, 2]), np.asarray([], np.int64)], [np.asarray([0, 1])] * 2, genre_shares(genres))
    assert half == pytest.approx(float((0.5 * np.log(0.5 / q)).sum()))
    assert novelty([], np.ones(2, np.int64)) == intra_list_diversity([], genres) == 0
    assert divergence([], [], genre_shares(genres)) == 0
