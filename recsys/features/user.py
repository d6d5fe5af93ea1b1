"""What a history says of its user: plain numbers, and the tastes that the crosses compare items with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.domain import History
from recsys.features.demand import stage_of
from recsys.features.events import DAY, MISSING

USER_NAMES = (
    "user_events",
    "user_events_7d",
    "user_events_30d",
    "user_events_per_day",
    "user_days_since_last",
    "user_days_since_first",
    "user_mean_rating",
    "user_rating_spread",
    "user_genre_entropy",
    "user_mean_popularity",
    "user_popularity_spread",
    "user_mean_year",
    "user_year_spread",
    "user_recent_rating",
    "user_recent_popularity",
)

RECENT_HALF_LIFE_EVENTS = 20.0
"""After so many later events an event counts half in the recent taste."""
FIRST_DECADE, DECADES = 186, 25
"""Decades are counted from 1860; earlier and later years fall into the outermost ones."""


@dataclass(frozen=True, slots=True)
class ItemTraits:
    """Per item of the catalogue, what tastes are made of."""

    genres: NDArray[np.float32]
    """float32[items, genres]; a row sums to 1, or to 0 for an item without genres."""
    years: NDArray[np.float32]
    """float32[items]; `MISSING` where unknown."""
    decades: NDArray[np.int64]
    """int64[items] in 0..DECADES - 1."""
    popularity: NDArray[np.float32]
    """float32[items]: share of items with fewer events."""
    compared: NDArray[np.float32]
    """float32[items, 6]: what an item is where `Taste.habits` says what the user is used to; `MISSING` where unknown:
    the year twice, the mean rating, the popularity twice, the logarithm of 1 + days since the item's first event."""

    @classmethod
    def of(
        cls,
        genres: NDArray[np.bool_],
        years: NDArray[np.float32],
        *,
        popularity: NDArray[np.float32],
        ratings: NDArray[np.float32],
        days_since_first: NDArray[np.float32],
    ) -> ItemTraits:
        """Derives shares of genres and decades. `ratings`, `days_since_first`: see `compared`."""
        shares = genres / np.maximum(genres.sum(axis=1, keepdims=True), 1)
        decades = np.clip((years // 10).astype(np.int64) - FIRST_DECADE, 0, DECADES - 1)
        compared = np.stack([years, years, ratings, popularity, popularity, days_since_first], axis=1)
        return cls(np.ascontiguousarray(shares, np.float32), years, decades, popularity, compared)


@dataclass(frozen=True, slots=True)
class Taste:
    """One user's habits, as of a moment."""

    numbers: NDArray[np.float32]
    """float32[len(USER_NAMES)]."""
    genres: NDArray[np.float32]
    """float32[genres, 3]: share of all events, share of recent events, mean deviation of the rating from the user's."""
    decades: NDArray[np.float32]
    """float32[DECADES]: share of events; sums to 1 where any year is known."""
    habits: NDArray[np.float32]
    """float32[6], `MISSING` where unknown: the mean year of events, that of recent ones, the mean rating, the mean
    popularity, that of recent events, the logarithm of 1 + days since the last event."""
    stage: int
    """See `demand.stage_of`."""
    recent: NDArray[np.float32]
    """float32[events]: weight of recency, sums to 1."""
    deviations: NDArray[np.float32]
    """float32[events]: the rating less the user's mean; 0 for an event without a rating."""


def taste_of(
    rows: NDArray[np.int64], history: History, traits: ItemTraits, *, as_of: int, preferred: Sequence[int]
) -> Taste:
    """The taste behind `history`, all of whose items are known: `rows` are theirs in the catalogue.

    Without any event the genres in columns `preferred` are the taste, and numbers are `MISSING` but for counts.
    """
    n = len(rows)
    if not n:
        return _no_taste(traits, preferred)
    recent = np.exp2(np.arange(1 - n, 1, dtype=np.float32) / np.float32(RECENT_HALF_LIFE_EVENTS))
    recent /= recent.sum()
    mean_rating, rating_spread, deviations = _ratings(history.values)
    every, lately, deviating = np.stack([np.ones(n, np.float32), recent, deviations]) @ traits.genres.take(rows, axis=0)
    shares = every / np.float64(n)
    genre_tastes = np.stack([shares, lately, deviating / np.maximum(every, 1)], axis=1).astype(np.float32)
    mean_year, year_spread, recent_year, decades = _years(rows, recent, traits)
    popularity = traits.popularity[rows]
    mean_popularity, popularity_spread = _mean_and_spread(popularity)
    recent_popularity = float(popularity @ recent)
    activity = _activity(np.maximum(as_of - history.timestamps, 0) / DAY)
    numbers = [
        *activity,
        mean_rating,
        rating_spread,
        _entropy(shares),
        mean_popularity,
        popularity_spread,
        mean_year,
        year_spread,
        float(deviations @ recent) if mean_rating != MISSING else MISSING,
        recent_popularity,
    ]
    habits = [mean_year, recent_year, mean_rating, mean_popularity, recent_popularity, activity[4]]
    return Taste(
        np.asarray(numbers, np.float32),
        genre_tastes,
        decades,
        np.asarray(habits, np.float32),
        int(stage_of(n)),
        recent,
        deviations,
    )


def _no_taste(traits: ItemTraits, preferred: Sequence[int]) -> Taste:
    genre_tastes = np.zeros((traits.genres.shape[1], 3), np.float32)
    if preferred:
        genre_tastes[list(preferred), :2] = 1.0 / len(preferred)
    numbers = np.full(len(USER_NAMES), MISSING, np.float32)
    numbers[:4] = 0.0
    habits, none = np.full(traits.compared.shape[1], MISSING, np.float32), np.empty(0, np.float32)
    return Taste(numbers, genre_tastes, np.zeros(DECADES, np.float32), habits, 0, none, none)


def _mean_and_spread(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation of at least one value. One request has few of them: calls, not sums, take time."""
    mean = float(values.sum()) / len(values)
    apart = values - np.float32(mean)
    return mean, math.sqrt(float(apart @ apart) / len(values))


def _activity(ages: NDArray[np.float64]) -> list[float]:
    """The first six of `USER_NAMES`, from ages in days."""
    first, last = float(ages.max()), float(ages.min())
    counts = (len(ages), np.count_nonzero(ages <= 7), np.count_nonzero(ages <= 30))
    velocity = len(ages) / (first - last + 1.0)
    return [*(math.log1p(count) for count in (*counts, velocity)), math.log1p(last), math.log1p(first)]


def _ratings(values: NDArray[np.float32]) -> tuple[float, float, NDArray[np.float32]]:
    """Mean, spread, and the deviation of each event from the mean (0 for an event without a value)."""
    rated = np.isfinite(values)
    if not rated.any():
        return MISSING, MISSING, np.zeros(len(values), np.float32)
    mean, spread = _mean_and_spread(values[rated])
    return mean, spread, np.where(rated, values - np.float32(mean), np.float32(0.0))


def _years(
    rows: NDArray[np.int64], recent: NDArray[np.float32], traits: ItemTraits
) -> tuple[float, float, float, NDArray[np.float32]]:
    """Mean year, its spread, the mean year of recent events, and the share of events by decade."""
    years = traits.years[rows]
    known = years != MISSING
    if not known.all():
        rows, years, recent = rows[known], years[known], recent[known]
    if not len(rows):
        return MISSING, MISSING, MISSING, np.zeros(DECADES, np.float32)
    mean, spread = _mean_and_spread(years)
    weight = float(recent.sum())
    apart = float((years - np.float32(mean)) @ recent)
    decades = np.bincount(traits.decades[rows], minlength=DECADES) / len(years)
    return mean, spread, mean + apart / weight if weight > 0 else mean, decades.astype(np.float32)


def _entropy(shares: NDArray[np.float32]) -> float:
    """Shannon entropy in nats."""
    positive = shares[shares > 0]
    return -float(positive @ np.log(positive))
