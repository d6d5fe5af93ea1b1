"""What was known of each item at the cut-off: one row per item of the catalogue, one column per name."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recsys.catalogue import NO_YEAR, Catalogue
from recsys.domain import Ids

MISSING = -1000.0
"""What a feature is where there is nothing to say. Finite, so that every tree library treats it alike."""

DAY = 86_400.0
WINDOW_DAYS = (7, 30, 90)
DECAY_HALF_LIFE_DAYS = 30.0
PRIOR_RATINGS = 10.0
"""Ratings of the overall mean that every item starts with, so that one rating is not an opinion of all."""

ITEM_NAMES = (
    *(f"item_count_{days}d" for days in WINDOW_DAYS),
    "item_count_all",
    "item_count_decayed",
    "item_trend_7d_30d",
    "item_trend_30d_90d",
    "item_trend_90d_all",
    "item_percentile_30d",
    "item_percentile_all",
    "item_mean_rating",
    "item_rating_spread",
    "item_age_share",
    "item_days_since_last",
    "item_year",
    "item_genres",
)


@dataclass(frozen=True, slots=True)
class ItemEvents:
    """Events up to a cut-off, as three parallel arrays in any order."""

    item_rows: NDArray[np.int32]
    """Rows of the catalogue."""
    timestamps: Ids
    values: NDArray[np.float32]
    """Rating or weight; NaN where there is none."""


def item_matrix(catalogue: Catalogue, events: ItemEvents, cutoff: int) -> NDArray[np.float32]:
    """float32[items, len(ITEM_NAMES)]: the item features at `cutoff`.

    Counts are natural logarithms relative to the mean item, so that a busy and a quiet month compare; a trend is the
    logarithm of the ratio of two daily rates; percentiles and the age share lie in [0, 1].
    """
    n = len(catalogue)
    ages = np.maximum(cutoff - events.timestamps, 0) / DAY
    span = float(ages.max(initial=0.0))
    counts = [_count(events.item_rows[ages <= days], n) for days in WINDOW_DAYS]
    total = _count(events.item_rows, n)
    decayed = _count(events.item_rows, n, np.exp2(-ages / DECAY_HALF_LIFE_DAYS))
    lengths = [min(days, max(span, 1.0)) for days in WINDOW_DAYS] + [max(span, 1.0)]
    mean, spread = _ratings(events, n)
    first, last = _first_and_last(events, ages, n)
    columns = [
        *(_relative_log(count) for count in [*counts, total, decayed]),
        *_trends([*counts, total], lengths),
        _percentile(counts[1]),
        _percentile(total),
        mean,
        spread,
        np.where(total > 0, first / max(span, 1.0), 0.0),
        np.where(total > 0, np.log1p(last), MISSING),
        np.where(catalogue.years != NO_YEAR, catalogue.years, MISSING),
        catalogue.genres.sum(axis=1),
    ]
    return np.stack(columns, axis=1).astype(np.float32).reshape(n, len(ITEM_NAMES))


def _count(rows: NDArray[np.int32], n: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    return np.bincount(rows, weights, minlength=n).astype(np.float64)


def _relative_log(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    mean = float(counts.mean()) if len(counts) else 0.0
    relative: NDArray[np.float64] = np.log1p(counts) - np.log1p(mean)
    return relative


def _trends(counts: list[NDArray[np.float64]], lengths: list[float]) -> list[NDArray[np.float64]]:
    rates = [(count + 1.0) / length for count, length in zip(counts, lengths, strict=True)]
    return [np.log(recent / longer) for recent, longer in pairwise(rates)]


def _percentile(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of items with fewer events."""
    return np.searchsorted(np.sort(counts), counts, side="left") / max(len(counts), 1)


def _ratings(events: ItemEvents, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the values of each item, both shrunk to those of all values."""
    rated = np.isfinite(events.values)
    values = events.values[rated].astype(np.float64)
    if not len(values):
        return np.full(n, MISSING), np.full(n, MISSING)
    rows = events.item_rows[rated]
    weight = _count(rows, n) + PRIOR_RATINGS
    mean = (_count(rows, n, values) + PRIOR_RATINGS * values.mean()) / weight
    squares = _count(rows, n, (values - mean[rows]) ** 2) + PRIOR_RATINGS * values.var()
    return mean, np.sqrt(squares / weight)


def _first_and_last(
    events: ItemEvents, ages: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Days since each item's first and last event; 0 and infinity for an item without any."""
    first, last = np.zeros(n), np.full(n, np.inf)
    np.maximum.at(first, events.item_rows, ages)
    np.minimum.at(last, events.item_rows, ages)
    return first, last
