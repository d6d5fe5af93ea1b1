"""What a history says of its user: plain numbers, and the tastes that the crosses compare items with."""

from __future__ import annotations

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
    ratings: NDArray[np.float32]
    """float32[items]: the mean rating, `MISSING` in a world without ratings."""
    days_since_first: NDArray[np.float32]
    """float32[items]: logarithm of 1 + days since the item's first event, `MISSING` without any."""

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
        """Derives shares of genres and decades."""
        shares = genres / np.maximum(genres.sum(axis=1, keepdims=True), 1)
        decades = np.clip((years // 10).astype(np.int64) - FIRST_DECADE, 0, DECADES - 1)
        return cls(shares.astype(np.float32), years, decades, popularity, ratings, days_since_first)


@dataclass(frozen=True, slots=True)
class Taste:
    """One user's habits, as of a moment."""

    numbers: NDArray[np.float32]
    """float32[len(USER_NAMES)]."""
    genres: NDArray[np.float32]
    """float32[genres, 3]: share of all events, share of recent events, mean deviation of the rating from the user's."""
    decades: NDArray[np.float32]
    """float32[DECADES]: share of events; sums to 1 where any year is known."""
    mean_year: float
    recent_year: float
    mean_rating: float
    mean_popularity: float
    recent_popularity: float
    days_since_last: float
    """Logarithm of 1 + days since the last event."""
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
    genre_tastes = np.zeros((traits.genres.shape[1], 3), np.float32)
    if not len(rows):
        if preferred:
            genre_tastes[list(preferred), :2] = 1.0 / len(preferred)
        numbers = np.full(len(USER_NAMES), MISSING, np.float32)
        numbers[:4] = 0.0
        none = np.empty(0, np.float32)
        return Taste(numbers, genre_tastes, np.zeros(DECADES, np.float32), *(MISSING,) * 6, 0, none, none)
    recent = np.exp2(-np.arange(len(rows) - 1, -1, -1) / RECENT_HALF_LIFE_EVENTS).astype(np.float32)
    recent /= recent.sum()
    genres = traits.genres[rows]
    mean_rating, rating_spread, deviations = _ratings(history.values)
    genre_tastes[:, 0] = genres.mean(axis=0)
    genre_tastes[:, 1] = recent @ genres
    genre_tastes[:, 2] = (deviations @ genres) / np.maximum(genres.sum(axis=0), 1.0)
    mean_year, year_spread, recent_year, decades = _years(rows, recent, traits)
    popularity = traits.popularity[rows]
    mean_popularity, recent_popularity = float(popularity.mean()), float(popularity @ recent)
    recent_rating = float(deviations @ recent) if mean_rating != MISSING else MISSING
    numbers = np.asarray(
        [
            *_activity(np.maximum(as_of - history.timestamps, 0) / DAY),
            mean_rating,
            rating_spread,
            _entropy(genre_tastes[:, 0]),
            mean_popularity,
            popularity.std(),
            mean_year,
            year_spread,
            recent_rating,
            recent_popularity,
        ],
        np.float32,
    )
    return Taste(
        numbers,
        genre_tastes,
        decades,
        mean_year,
        recent_year,
        mean_rating,
        mean_popularity,
        recent_popularity,
        float(numbers[USER_NAMES.index("user_days_since_last")]),
        int(stage_of(len(rows))),
        recent,
        deviations,
    )


def _activity(ages: NDArray[np.float64]) -> list[float]:
    """The first six of `USER_NAMES`, from ages in days."""
    first, last = float(ages.max()), float(ages.min())
    counts = (len(ages), np.count_nonzero(ages <= 7), np.count_nonzero(ages <= 30))
    velocity = len(ages) / (first - last + 1.0)
    return [*(float(np.log1p(count)) for count in (*counts, velocity)), float(np.log1p(last)), float(np.log1p(first))]


def _ratings(values: NDArray[np.float32]) -> tuple[float, float, NDArray[np.float32]]:
    """Mean, spread, and the deviation of each event from the mean (0 for an event without a value)."""
    rated = np.isfinite(values)
    if not rated.any():
        return MISSING, MISSING, np.zeros(len(values), np.float32)
    known = values[rated]
    mean = float(known.mean())
    return mean, float(known.std()), np.where(rated, values - np.float32(mean), np.float32(0.0))


def _years(
    rows: NDArray[np.int64], recent: NDArray[np.float32], traits: ItemTraits
) -> tuple[float, float, float, NDArray[np.float32]]:
    """Mean year, its spread, the mean year of recent events, and the share of events by decade."""
    years = traits.years[rows]
    known = years != MISSING
    if not known.any():
        return MISSING, MISSING, MISSING, np.zeros(DECADES, np.float32)
    years, recent = years[known].astype(np.float64), recent[known]
    decades = np.bincount(traits.decades[rows[known]], minlength=DECADES) / len(years)
    return (
        float(years.mean()),
        float(years.std()),
        float(years @ recent / recent.sum()) if recent.sum() > 0 else float(years.mean()),
        decades.astype(np.float32),
    )


def _entropy(shares: NDArray[np.float32]) -> float:
    """Shannon entropy in nats."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())
