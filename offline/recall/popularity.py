"""Trains the popularity channel: a score per item, a blend of windows, decays, trends; another for returning users."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from offline.dataset.interactions import Snapshot, TrainingEvents
from recall_server.channels.popularity import (
    GENRE_SCALES_FILE,
    RETURNING_FACTS_FILE,
    RETURNING_SCORES_FILE,
    SCORES_FILE,
    PopularityScores,
    ReturningFacts,
)

SECONDS_PER_DAY = 86_400.0
SECONDS_PER_HOUR = 3_600.0


class Signal(BaseModel):
    """One way to count: a window, a decay, or (neither) all time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_days: float | None = Field(default=None, gt=0, description="count events of the last so many days")
    half_life_days: float | None = Field(default=None, gt=0, description="an event loses half its weight in this time")
    trend: float = Field(
        default=0,
        ge=0,
        description="share of the growth since the window before that is added to the window: 1 continues the trend; "
        "needs window_days",
    )
    returning: bool = Field(
        default=False,
        description="count only events of users who had come back by then: more than returning.after_hours after "
        "their first event",
    )
    weight: float = Field(gt=0, description="weight of the signal in the blend")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.window_days is not None and self.half_life_days is not None:
            raise ValueError("a signal has window_days or half_life_days, not both; use two signals")
        if self.trend and self.window_days is None:
            raise ValueError("a signal with trend needs window_days: growth is from one window to the next")
        return self


class ReturningConfig(BaseModel):
    """What users are shown who come back after their first hours: newcomers take what everybody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after_hours: float = Field(
        default=168, ge=0, description="a user has come back when their first event is more than so many hours old"
    )
    signals: tuple[Signal, ...] = Field(
        default=(Signal(window_days=7, weight=0.25), Signal(returning=True, weight=0.75)),
        min_length=1,
        description="what is counted for them, and how much each count weighs",
    )


class PopularityConfig(BaseModel):
    """Which events count towards an item's popularity at the cut-off, and how much."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signals: tuple[Signal, ...] = Field(
        default=(
            Signal(window_days=7, weight=0.8),
            Signal(window_days=90, weight=0.2),
        ),
        min_length=1,
        description="what is counted, and how much each count weighs",
    )
    returning: ReturningConfig | None = Field(
        default=ReturningConfig(), description="popularity as shown to returning users; null: the same as for all"
    )
    prior_events: float = Field(
        default=5_000,
        ge=0,
        description="events by which the share of all time is mixed into every signal, so that a window of few events "
        "does not decide",
    )

    @model_validator(mode="after")
    def _hours_are_known(self) -> Self:
        if self.returning is None and any(signal.returning for signal in self.signals):
            raise ValueError("a signal counts returning users, but returning is null: nothing says who they are")
        return self


def train(snapshot: Snapshot, config: PopularityConfig, folder: Path) -> None:
    """Writes the files of `PopularityChannel` below `folder`."""
    scores = PopularityScores.of(popularity(snapshot, config), snapshot.catalogue)
    (folder / SCORES_FILE).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / SCORES_FILE, scores.scores)
    np.save(folder / GENRE_SCALES_FILE, scores.genre_scales)
    if config.returning is not None:
        np.save(folder / RETURNING_SCORES_FILE, popularity(snapshot, config, signals=config.returning.signals))
        facts = ReturningFacts(after_hours=config.returning.after_hours)
        (folder / RETURNING_FACTS_FILE).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")


def popularity(
    snapshot: Snapshot, config: PopularityConfig, *, signals: tuple[Signal, ...] | None = None
) -> NDArray[np.float32]:
    """float32[items] within [0, 1], 1 for the most popular item, 0 for one without events.

    Each signal (default: those of `config`) becomes a share of its events, (count + m * share of all time) /
    (total + m) with m = `prior_events`: the posterior mean of a Dirichlet prior centred on all time. All time means
    all events that a signal of its kind counts, so a signal of returning users is not diluted by newcomers.
    """
    after_hours = config.returning.after_hours if config.returning is not None else 0.0
    blend = np.zeros(len(snapshot.catalogue), np.float64)
    for signal in signals or config.signals:
        overall = counts(snapshot, Signal(returning=signal.returning, weight=1), after_hours=after_hours)
        counted = counts(snapshot, signal, after_hours=after_hours)
        total = counted.sum() + config.prior_events
        if total > 0:
            blend += signal.weight * (counted + config.prior_events * overall / max(overall.sum(), 1.0)) / total
    best = float(blend.max(initial=0.0))
    return np.asarray(blend / best if best > 0 else blend, np.float32)


def counts(snapshot: Snapshot, signal: Signal, *, after_hours: float = 0.0) -> NDArray[np.float64]:
    """float64[items]: events per item, each with the weight of its type, as `signal` counts them at the cut-off.

    `after_hours`: since when a user has come back, for a signal that counts only those. With trend g the count is
    max(0, n + g (n - m)), where m are the events of the window before, as long as the window.
    """
    events = snapshot.events
    weights = events.weights.astype(np.float64)
    if signal.returning:
        weights[_seconds_since_first(snapshot, events) <= after_hours * SECONDS_PER_HOUR] = 0
    age_days = (snapshot.cutoff - events.timestamps) / SECONDS_PER_DAY
    if signal.window_days is not None:
        recent = _per_item(snapshot, np.where(age_days < signal.window_days, weights, 0))
        if not signal.trend:
            return recent
        before = (age_days >= signal.window_days) & (age_days < 2 * signal.window_days)
        return np.maximum(recent + signal.trend * (recent - _per_item(snapshot, np.where(before, weights, 0))), 0)
    if signal.half_life_days is not None:
        weights *= np.exp2(-age_days / signal.half_life_days)
    return _per_item(snapshot, weights)


def _per_item(snapshot: Snapshot, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    counted = np.bincount(snapshot.events.item_rows, weights=weights, minlength=len(snapshot.catalogue))
    return np.asarray(counted, np.float64)


def _seconds_since_first(snapshot: Snapshot, events: TrainingEvents) -> NDArray[np.int64]:
    """int64[events]: from the user's first event of any kind to the event."""
    first = snapshot.timestamps[snapshot.indptr[:-1]]
    return np.asarray(events.timestamps - first[events.user_rows], np.int64)
