"""The profile that a history gives its user: plain numbers, and the preferences that items are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.domain import History
from recsys.features.events import DAY, MISSING
from recsys.features.item_statistics import stage_of

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
"""Every so many later events halve the weight of an event in what is called recent."""
FIRST_DECADE, DECADES = 186, 25
"""Decades are counted from 1860; earlier and later years fall into the outermost ones."""
HABITS = ("year", "recent_year", "rating", "popularity", "recent_popularity", "days_since_event")
"""Columns of `UserProfile.habits`, the user's usual values, and of `ItemTraits.compared`, the item's."""


@dataclass(frozen=True, slots=True)
class ItemTraits:
    """Per item of the catalogue, what user profiles are made of."""

    genres: NDArray[np.float32]
    """float32[items, genres]; a row sums to 1, or to 0 for an item without genres."""
    years: NDArray[np.float32]
    """float32[items]; `MISSING` where unknown."""
    decades: NDArray[np.int64]
    """int64[items] in 0..DECADES - 1."""
    popularity: NDArray[np.float32]
    """float32[items]: share of items with fewer events."""
    compared: NDArray[np.float32]
    """float32[items, len(HABITS)], `MISSING` where unknown: the year twice, the mean rating, the popularity twice, the
    logarithm of 1 + days since the item's first event."""

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
        return cls(
            np.ascontiguousarray(shares, np.float32),
            np.ascontiguousarray(years),
            decades,
            np.ascontiguousarray(popularity),
            compared,
        )


@dataclass(frozen=True, slots=True)
class UserProfile:
    """One user, as of a moment."""

    numbers: NDArray[np.float32]
    """float32[len(USER_NAMES)]."""
    genres: NDArray[np.float32]
    """float32[genres, 3]: share of all events, share of recent events, mean deviation of the rating from the user's."""
    decades: NDArray[np.float32]
    """float32[DECADES]: share of events; sums to 1 where any year is known."""
    habits: NDArray[np.float32]
    """float32[len(HABITS)], `MISSING` where unknown: the mean year of events, that of recent ones, the mean rating, the
    mean popularity, that of recent events, the logarithm of 1 + days since the last event."""
    stage: int
    """See `item_statistics.stage_of`."""
    recent: NDArray[np.float32]
    """float32[events]: weight of recency, sums to 1."""
    deviations: NDArray[np.float32]
    """float32[events]: the rating less the user's mean; 0 for an event without a rating."""


def profile_of(
    rows: NDArray[np.int64], history: History, traits: ItemTraits, *, as_of: int, preferred: Sequence[int]
) -> UserProfile:
    """The profile behind `history`, all of whose items are known: `rows` are theirs in the catalogue.

    Without any event its genres are the columns `preferred`, and its numbers are `MISSING` but for counts.
    """
    n = len(rows)
    if not n:
        return _empty_profile(traits, preferred)
    recent = recency(n)
    recent /= recent.sum()
    mean_rating, rating_spread, deviations = _ratings(history.values)
    # By genre: number of events, their recency weight, and the sum of rating deviations, from the items' genre shares.
    every, lately, deviating = np.stack([np.ones(n, np.float32), recent, deviations]) @ traits.genres.take(rows, axis=0)
    shares = every / np.float64(n)
    genre_profile = np.stack([shares, lately, deviating / np.maximum(every, 1)], axis=1).astype(np.float32)
    mean_year, year_spread, recent_year, decades = _years(rows, recent, traits)
    popularity = traits.popularity[rows]
    mean_popularity, popularity_spread = _mean_and_spread(popularity)
    recent_popularity = float(popularity @ recent)
    activity = _activity(np.maximum(as_of - history.timestamps, 0) / DAY)
    days_since_last = activity[USER_NAMES.index("user_days_since_last")]
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
    habits = [mean_year, recent_year, mean_rating, mean_popularity, recent_popularity, days_since_last]
    return UserProfile(
        np.asarray(numbers, np.float32),
        genre_profile,
        decades,
        np.asarray(habits, np.float32),
        int(stage_of(n)),
        recent,
        deviations,
    )


def recency(n: int) -> NDArray[np.float32]:
    """float32[n]: the weights of events by recency, oldest first, not scaled: 2^(-later events / half-life)."""
    weights: NDArray[np.float32] = np.exp2(np.arange(1 - n, 1, dtype=np.float32) / np.float32(RECENT_HALF_LIFE_EVENTS))
    return weights


def _empty_profile(traits: ItemTraits, preferred: Sequence[int]) -> UserProfile:
    genre_profile = np.zeros((traits.genres.shape[1], 3), np.float32)
    if preferred:
        genre_profile[list(preferred), :2] = 1.0 / len(preferred)
    numbers = np.full(len(USER_NAMES), MISSING, np.float32)
    numbers[: USER_NAMES.index("user_events_per_day") + 1] = 0.0
    habits, none = np.full(traits.compared.shape[1], MISSING, np.float32), np.empty(0, np.float32)
    return UserProfile(numbers, genre_profile, np.zeros(DECADES, np.float32), habits, 0, none, none)


def _mean_and_spread(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation of at least one value; of so few values, calls take longer than the sums."""
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
