"""Trains the popularity channel: one score per item, a blend of several windows and of exponential decay."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from offline.interactions import Snapshot
from recall_server.channels.popularity import GENRE_SCALES_FILE, SCORES_FILE

SECONDS_PER_DAY = 86_400.0


class Signal(BaseModel):
    """One way to count: a window, a decay, or (neither) all time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_days: float | None = Field(default=None, gt=0, description="count events of the last so many days")
    half_life_days: float | None = Field(default=None, gt=0, description="an event loses half its weight in this time")
    weight: float = Field(gt=0, description="weight of the signal in the blend")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.window_days is not None and self.half_life_days is not None:
            raise ValueError("a signal has window_days or half_life_days, not both; use two signals")
        return self


class PopularityConfig(BaseModel):
    """How popular an item is at the cut-off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signals: tuple[Signal, ...] = Field(
        default=(
            Signal(window_days=7, weight=0.8),
            Signal(window_days=90, weight=0.2),
        ),
        min_length=1,
        description="what is counted, and how much each count weighs",
    )
    prior_events: float = Field(
        default=5_000,
        ge=0,
        description="events by which the share of all time is mixed into every signal, so that a window of few events "
        "does not decide",
    )


def train(snapshot: Snapshot, config: PopularityConfig, folder: Path) -> None:
    """Writes the files of `PopularityChannel` below `folder`."""
    scores = popularity(snapshot, config)
    genres = snapshot.catalogue.genres
    scales = np.where(genres, scores[:, None], 0).max(axis=0, initial=0)
    (folder / SCORES_FILE).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / SCORES_FILE, scores)
    np.save(folder / GENRE_SCALES_FILE, scales.astype(np.float32))


def popularity(snapshot: Snapshot, config: PopularityConfig) -> NDArray[np.float32]:
    """float32[items] within [0, 1], 1 for the most popular item, 0 for one without events.

    Each signal becomes a share of its events, (count + m * share of all time) / (total + m) with m = `prior_events`:
    the posterior mean of a Dirichlet prior centred on all time.
    """
    overall = counts(snapshot, Signal(weight=1))
    overall_share = overall / max(overall.sum(), 1.0)
    blend = np.zeros(len(overall), np.float64)
    for signal in config.signals:
        counted = counts(snapshot, signal)
        total = counted.sum() + config.prior_events
        if total > 0:
            blend += signal.weight * (counted + config.prior_events * overall_share) / total
    best = float(blend.max(initial=0.0))
    return np.asarray(blend / best if best > 0 else blend, np.float32)


def counts(snapshot: Snapshot, signal: Signal) -> NDArray[np.float64]:
    """float64[items]: events per item, each with the weight of its type, as `signal` counts them at the cut-off."""
    events = snapshot.events
    weights = events.weights.astype(np.float64)
    age_days = (snapshot.cutoff - events.timestamps) / SECONDS_PER_DAY
    if signal.window_days is not None:
        weights[age_days >= signal.window_days] = 0
    if signal.half_life_days is not None:
        weights *= np.exp2(-age_days / signal.half_life_days)
    counted = np.bincount(events.item_rows, weights=weights, minlength=len(snapshot.catalogue))
    return np.asarray(counted, np.float64)
