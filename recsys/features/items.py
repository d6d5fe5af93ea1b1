"""What was known of each item at the cut-off: one row per item of the catalogue, one column per name."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from recsys.catalogue import NO_YEAR, Catalogue
from recsys.features.credits import REACH_NAMES, reach
from recsys.features.events import MISSING, ItemEvents, count, relative_log, share_below
from recsys.features.item_statistics import WINDOW_DAYS, ItemStatistics

PRIOR_RATINGS = 10.0
"""Ratings of the overall mean that every item starts with, so that one rating is not an opinion of all."""
RATING_HALF_LIFE_DAYS = 60.0

ITEM_NAMES = (
    *(f"item_count_{days}d" for days in WINDOW_DAYS),
    "item_count_all",
    "item_count_decayed",
    "item_trend_7d_30d",
    "item_trend_30d_90d",
    "item_trend_90d_365d",
    "item_trend_365d_all",
    "item_percentile_30d",
    "item_percentile_all",
    *(f"item_returning_{days}d" for days in WINDOW_DAYS),
    "item_returning_all",
    "item_returning_share_90d",
    "item_returning_share_all",
    "item_mean_position",
    "item_mean_user_events",
    "item_mean_rating",
    "item_rating_spread",
    "item_rating_trend",
    "item_age_share",
    "item_days_since_first",
    "item_days_since_last",
    "item_year",
    "item_genres",
    *REACH_NAMES,
    "item_runtime",
    "item_budget",
)
"""Columns of `item_matrix`.

    count_*              events in the window (days), in all, and with a half-life of 30 days
    trend_A_B            daily rate in the shorter window against that in the longer one
    percentile_*         share of items with fewer events
    returning_*          events of users who came more than a day before (see `item_statistics.RETURNING_AFTER_DAYS`)
    returning_share_*    their part of all events of the item, shrunk to that of all items
    mean_position        how many events users had before this one, mean logarithm, shrunk
    mean_user_events     how many events the users of the item have in all, likewise
    mean_rating, rating_spread    shrunk to those of all ratings
    rating_trend         mean rating with a half-life of 60 days, less the mean rating
    age_share            days since the first event, as a share of the log's length
    days_since_first, days_since_last    logarithm of 1 + days; `MISSING` without any event
    director_reach, cast_reach           see `credits.reach`
    runtime, budget      minutes; logarithm of 1 + budget; `MISSING` where the catalogue does not say
"""


def item_matrix(catalogue: Catalogue, events: ItemEvents, statistics: ItemStatistics) -> NDArray[np.float32]:
    """float32[items, len(ITEM_NAMES)]: the item features at the cut-off of `statistics`.

    Counts are natural logarithms relative to the mean item, so that a busy and a quiet month compare; a trend is the
    logarithm of the ratio of two daily rates; percentiles and shares lie in [0, 1].
    """
    n = len(catalogue)
    ages = statistics.ages
    span = max(float(ages.max(initial=0.0)), 1.0)
    lengths = [min(days, span) for days in WINDOW_DAYS] + [span]
    first, last = _first_and_last(events, ages, n)
    columns = [
        *(relative_log(counts) for counts in (*statistics.counts, statistics.decayed)),
        *_trends(statistics.counts, lengths),
        share_below(statistics.counts[1]),
        share_below(statistics.counts[-1]),
        *(relative_log(counts) for counts in statistics.returning),
        statistics.returning_share(2),
        statistics.returning_share(-1),
        *statistics.experience(),
        *_ratings(events, ages, n),
        np.where(statistics.counts[-1] > 0, first / span, 0.0),
        np.where(statistics.counts[-1] > 0, np.log1p(first), MISSING),
        np.where(statistics.counts[-1] > 0, np.log1p(last), MISSING),
        np.where(catalogue.years != NO_YEAR, catalogue.years, MISSING),
        catalogue.genres.sum(axis=1),
        *reach(catalogue, statistics.counts[-1]),
        _measure(catalogue.runtimes, n),
        _measure(None if catalogue.budgets is None else np.log1p(catalogue.budgets), n),
    ]
    return np.stack(columns, axis=1).astype(np.float32).reshape(n, len(ITEM_NAMES))


def _trends(counts: tuple[NDArray[np.float64], ...], lengths: list[float]) -> list[NDArray[np.float64]]:
    rates = [(found + 1.0) / length for found, length in zip(counts, lengths, strict=True)]
    return [np.log(recent / longer) for recent, longer in pairwise(rates)]


def _ratings(events: ItemEvents, ages: NDArray[np.float64], n: int) -> tuple[NDArray[np.float64], ...]:
    """Mean and standard deviation of the values of each item, and how far recent ones are above the mean; shrunk."""
    rated = np.isfinite(events.values)
    values = events.values[rated].astype(np.float64)
    if not len(values):
        return (np.full(n, MISSING),) * 3
    rows, recency = events.item_rows[rated], np.exp2(-ages[rated] / RATING_HALF_LIFE_DAYS)
    weight = count(rows, n) + PRIOR_RATINGS
    mean = (count(rows, n, values) + PRIOR_RATINGS * values.mean()) / weight
    squares = count(rows, n, (values - mean[rows]) ** 2) + PRIOR_RATINGS * values.var()
    trend = count(rows, n, recency * (values - mean[rows])) / (count(rows, n, recency) + PRIOR_RATINGS)
    return mean, np.sqrt(squares / weight), trend


def _first_and_last(
    events: ItemEvents, ages: NDArray[np.float64], n: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Days since each item's first and last event; 0 and infinity for an item without any."""
    first, last = np.zeros(n), np.full(n, np.inf)
    np.maximum.at(first, events.item_rows, ages)
    np.minimum.at(last, events.item_rows, ages)
    return first, last


def _measure(values: NDArray[np.float32] | None, n: int) -> NDArray[np.float64]:
    if values is None:
        return np.full(n, MISSING)
    return np.where(np.isfinite(values), values, MISSING).astype(np.float64)
