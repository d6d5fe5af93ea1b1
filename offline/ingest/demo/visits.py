"""When the users of the demo world come: visits on different days, several events minutes apart in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from offline.ingest.demo.calendar import DAYS, SECONDS_PER_DAY, START

COLD_SHARE = 0.08
"""Share of the users with at most `COLD_EVENTS` events."""
COLD_EVENTS = 4
SPREAD = 0.95
"""Standard deviation of the logarithm of a user's number of events: few users are very busy."""
NEW_VISIT = 0.22
"""Chance that the next event opens a new visit: a visit has 4 to 5 events on average."""
LOYAL_SHARE = 0.45
"""Share of the users that keep coming to the end."""


@dataclass(frozen=True, slots=True)
class Visits:
    """All events before a film is chosen, grouped by user (busiest first) and in the order of time within a user.

    `counts` int64[users] is never increasing; event e of user u stands at `offsets[u] + e`.
    `timestamp` int64[events] is in Unix seconds; `opens` bool[events] marks the first event of a visit.
    """

    counts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    timestamp: npt.NDArray[np.int64]
    opens: npt.NDArray[np.bool_]


def draw_visits(rng: np.random.Generator, users: int, *, events_per_user: float, most: int) -> Visits:
    """Draw every user's events: about `events_per_user` on average, between 1 and `most` for each user.

    `most` is at most half the days of the period: a user visits once a day.
    """
    counts = _draw_counts(rng, users, events_per_user=events_per_user, most=most)
    offsets = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)
    opens = rng.random(int(counts.sum())) < NEW_VISIT
    opens[offsets] = True
    visits = np.add.reduceat(opens.astype(np.int64), offsets)
    opening = START + _draw_days(rng, visits) * SECONDS_PER_DAY + _draw_hours(rng, int(visits.sum()))
    gaps = np.rint(20.0 + np.minimum(rng.exponential(240.0, size=opens.size), 1_200.0)).astype(np.int64)
    elapsed = np.cumsum(gaps)
    visit = np.cumsum(opens) - 1
    return Visits(counts, offsets, opening[visit] + elapsed - elapsed[opens][visit], opens)


def _draw_counts(rng: np.random.Generator, users: int, *, events_per_user: float, most: int) -> npt.NDArray[np.int64]:
    typical = events_per_user * np.exp(-(SPREAD**2) / 2.0)
    counts = np.rint(typical * np.exp(SPREAD * rng.normal(size=users))).astype(np.int64)
    cold = rng.random(users) < COLD_SHARE
    counts = np.where(cold, rng.integers(1, COLD_EVENTS + 1, size=users), counts)
    return np.sort(np.clip(counts, 1, most))[::-1].copy()


def _draw_days(rng: np.random.Generator, visits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the day of every visit: increasing within a user, all between the user's first and last day.

    The last day of the period stays free, so that a visit that runs past midnight ends within it.
    """
    users = visits.size
    room = DAYS - 1 - visits
    first = np.floor(np.maximum(room, 0) * rng.beta(0.6, 1.5, size=users))
    stays = np.where(rng.random(users) < LOYAL_SHARE, 1.0, rng.uniform(0.05, 1.0, size=users))
    slack = np.floor((room - first) * stays)
    user = np.repeat(np.arange(users), visits)
    position = rng.random(user.size)
    position = position[np.lexsort((position, user))]
    rank = np.arange(user.size) - np.repeat(np.cumsum(visits) - visits, visits)
    days: npt.NDArray[np.float64] = first[user] + np.floor(position * (slack[user] + 1)) + rank
    return days.astype(np.int64)


def _draw_hours(rng: np.random.Generator, n: int) -> npt.NDArray[np.int64]:
    """Return the second of the day of n visits: most in the evening, none between 23:00 and 08:00."""
    hours: npt.NDArray[np.float64] = np.clip(rng.normal(19.5, 3.0, size=n), 8.0, 23.0)
    return np.rint(hours * 3_600.0).astype(np.int64)
