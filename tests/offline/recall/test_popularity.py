"""Popularity is counted at the cut-off, and a quiet window leans on all time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from pydantic import ValidationError

from offline.recall.popularity import PopularityConfig, Signal, counts, popularity, train
from recsys.domain import EventType
from tests.recall_server.toy import Event, snapshot_of

NO_VALUE = float("nan")
GENRES = {1: "Drama", 2: "Drama", 3: "Comedy", 4: "Comedy", 5: ""}
EVENTS: list[Event] = [
    *((user, 1, 200.0) for user in range(8)),
    *((user, 2, 20.0) for user in range(4)),
    *((user, 3, 2.0) for user in range(2)),
    (9, 4, 2.0, NO_VALUE, EventType.CLICK),
]


def test_windows_and_decay_count_events_by_age_and_type() -> None:
    snapshot = snapshot_of(EVENTS, GENRES)
    assert_allclose(counts(snapshot, Signal(weight=1)), [8, 4, 2, 0.3, 0], rtol=1e-6)
    assert_allclose(counts(snapshot, Signal(window_days=7, weight=1)), [0, 0, 2, 0.3, 0], rtol=1e-6)
    assert_allclose(counts(snapshot, Signal(window_days=20, weight=1)), [0, 0, 2, 0.3, 0], rtol=1e-6)
    decayed = counts(snapshot, Signal(half_life_days=20, weight=1))
    assert_allclose(decayed, [8 / 2**10, 4 / 2, 2 * 2**-0.1, 0.3 * 2**-0.1, 0], rtol=1e-6)


def test_a_trend_adds_the_growth_since_the_window_before() -> None:
    events: list[Event] = [
        *((user, 1, 3.0) for user in range(4)),
        *((user, 1, 10.0) for user in range(4, 6)),
        *((user, 2, 3.0) for user in range(2)),
        *((user, 2, 10.0) for user in range(2, 9)),
        (9, 3, 3.0),
        (9, 4, 14.0),
    ]
    snapshot = snapshot_of(events, GENRES)
    assert counts(snapshot, Signal(window_days=7, weight=1)).tolist() == [4, 2, 1, 0, 0]
    assert counts(snapshot, Signal(window_days=7, trend=0.5, weight=1)).tolist() == [5, 0, 1.5, 0, 0]


def test_events_of_returning_users_are_those_after_their_first_hours() -> None:
    events: list[Event] = [(1, 1, 30.0), (1, 2, 29.0), (1, 3, 1.0), (2, 3, 2.0), (2, 4, 1.0)]
    snapshot = snapshot_of(events, GENRES)
    returning = Signal(returning=True, weight=1)
    assert counts(snapshot, returning, after_hours=23).tolist() == [0, 1, 1, 1, 0]
    assert counts(snapshot, returning, after_hours=24).tolist() == [0, 0, 1, 0, 0]
    assert counts(snapshot, Signal(returning=True, window_days=20, weight=1)).tolist() == [0, 0, 1, 1, 0]


def test_the_prior_of_returning_users_is_their_own() -> None:
    events: list[Event] = [*((user, 1, 40.0) for user in range(50)), (1, 2, 20.0), (2, 3, 20.0), (2, 4, 2.0)]
    returning = (Signal(returning=True, window_days=7, weight=1),)
    scores = popularity(snapshot_of(events, GENRES), PopularityConfig(prior_events=3), signals=returning)
    assert_allclose(scores, [0, 0.5, 0.5, 1, 0], rtol=1e-6)


def test_scores_blend_smoothed_shares() -> None:
    config = PopularityConfig(
        signals=(Signal(window_days=7, weight=3), Signal(half_life_days=20, weight=1)), prior_events=2
    )
    snapshot = snapshot_of(EVENTS, GENRES)
    overall = np.asarray([8, 4, 2, 0.3, 0]) / 14.3
    blend = np.zeros(5)
    for signal in config.signals:
        counted = counts(snapshot, signal)
        blend += signal.weight * (counted + 2 * overall) / (counted.sum() + 2)
    assert_allclose(popularity(snapshot, config), blend / blend.max(), rtol=1e-6)


def test_a_quiet_week_leans_on_all_time() -> None:
    snapshot = snapshot_of(EVENTS, GENRES)
    week = (Signal(window_days=7, weight=1),)
    trusting = popularity(snapshot, PopularityConfig(signals=week, prior_events=0))
    leaning = popularity(snapshot, PopularityConfig(signals=week, prior_events=1_000))
    assert trusting.argmax() == 2
    assert leaning.argmax() == 0
    assert trusting[4] == leaning[4] == 0


def test_a_world_without_events_scores_zero(tmp_path: Path) -> None:
    train(snapshot_of([], GENRES), PopularityConfig(), tmp_path)
    assert np.load(tmp_path / "popularity/scores.npy").tolist() == [0] * 5
    assert np.load(tmp_path / "popularity/genre_scales.npy").tolist() == [0, 0]


def test_files_are_scores_and_the_best_score_of_each_genre(tmp_path: Path) -> None:
    snapshot = snapshot_of(EVENTS, GENRES)
    config = PopularityConfig(signals=(Signal(weight=1),))
    train(snapshot, config, tmp_path)
    scores = np.load(tmp_path / "popularity/scores.npy", allow_pickle=False)
    assert scores.dtype == np.float32
    assert_allclose(scores, [1, 0.5, 0.25, 0.0375, 0], rtol=1e-6)
    scales = np.load(tmp_path / "popularity/genre_scales.npy", allow_pickle=False)
    assert snapshot.catalogue.genre_names == ("Comedy", "Drama")
    assert_allclose(scales, [0.25, 1], rtol=1e-6)


def test_config_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="not both"):
        Signal(window_days=7, half_life_days=7, weight=1)
    with pytest.raises(ValidationError, match="extra"):
        PopularityConfig.model_validate({"window": 7})
    with pytest.raises(ValidationError, match="trend needs window_days"):
        Signal(trend=1, weight=1)
    with pytest.raises(ValidationError, match="nothing says who they are"):
        PopularityConfig(signals=(Signal(returning=True, weight=1),), returning=None)
