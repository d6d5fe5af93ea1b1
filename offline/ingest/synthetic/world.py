"""Ratings of a generated world, some users at a time: memory does not grow with the number of ratings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from offline.ingest.synthetic.catalogue import SyntheticItems, draw_items
from offline.ingest.synthetic.shape import Shape, draw_counts
from offline.ingest.synthetic.tastes import DRIFT_DAYS, TOPICS, Tastes, Topics, draw_circles
from offline.ingest.synthetic.visits import UserVisits, draw_visits

SEED = 20_100_101
USERS_AT_ONCE = 4_000
STAY_ON_TOPIC = 0.5
"""Chance that a rating is of the topic of the one before in its visit: what a sequence model can learn."""
TASTE_TRIES, ANY_TRIES = 8, 16
"""Draws of an item that is there and new to the user: so many on the topic, then on the general one, then evenly."""


@dataclass(frozen=True, slots=True)
class GeneratedRatings:
    """Parallel columns; by user, and in the order of time within one."""

    user_ids: npt.NDArray[np.int64]
    item_ids: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    """0.5 to 5 in half steps."""


@dataclass(frozen=True)
class SyntheticWorld:
    """All that a seed and a number of ratings decide. Equal arguments give equal output, in any process.

    So they do on processors on which BLAS rounds alike: on all of x86-64 with fused multiplication and addition (2013).
    """

    shape: Shape
    seed: int = SEED

    @cached_property
    def items(self) -> SyntheticItems:
        """The catalogue."""
        return draw_items(np.random.default_rng([self.seed, 0]), self.shape.items)

    def ratings(self) -> Iterator[GeneratedRatings]:
        """All ratings, those of `USERS_AT_ONCE` users at a time. Nobody rates an item twice or before it arrived."""
        rng = np.random.default_rng([self.seed, 1])
        counts, topics, circles = draw_counts(rng, self.shape), Topics.of(rng, self.items), draw_circles(rng)
        for first in range(0, self.shape.users, USERS_AT_ONCE):
            own = np.random.default_rng([self.seed, 2, first])
            part = counts[first : first + USERS_AT_ONCE]
            tastes = Tastes.draw(own, circles, len(part))
            visits = draw_visits(own, part)
            rows = _choose(own, visits, _topics_of(own, visits, tastes.cumulative(topics)), topics, items=self.items)
            values = _rate(own, visits, rows, tastes, items=self.items)
            yield GeneratedRatings(visits.users + first + 1, rows + 1, visits.timestamps, values)


def _topics_of(rng: np.random.Generator, visits: UserVisits, shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """int64[ratings]: topics; the later a rating, the more likely is one of what the user's taste drifts to."""
    n, days = len(visits.users), visits.days
    since = days - days[np.searchsorted(visits.users, visits.users)]
    row = 2 * visits.users + (rng.random(n) * DRIFT_DAYS < since)
    drawn = np.searchsorted(shares, row + rng.random(n), side="right") - row * (TOPICS + 1)
    # Where the topic stays, it is that of the latest rating before at which one was drawn.
    fresh = visits.opens | (rng.random(n) >= STAY_ON_TOPIC)
    return drawn[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]


def _choose(
    rng: np.random.Generator,
    visits: UserVisits,
    of_rating: npt.NDArray[np.int64],
    topics: Topics,
    *,
    items: SyntheticItems,
) -> npt.NDArray[np.int64]:
    """int64[ratings]: item rows, drawn by topic and thinned by the demand of the day; of one twice, the first stays."""
    days, n = visits.days, len(items)
    rows = np.full(len(days), -1, np.int64)
    taken = np.empty(0, np.int64)
    open_, tries = np.arange(len(days)), 0
    while len(open_):
        if tries < ANY_TRIES:
            drawn = topics.draw(rng, of_rating[open_] if tries < TASTE_TRIES else np.full(len(open_), TOPICS))
            wanted = rng.random(len(open_)) < items.demand(drawn, days[open_])
        else:
            drawn = rng.integers(n, size=len(open_))
            wanted = days[open_] >= items.arrivals[drawn]
        found, drawn = open_[wanted], drawn[wanted]
        pairs, first = np.unique(visits.users[found] * n + drawn, return_index=True)
        new = ~_among(pairs, taken)
        rows[found[first[new]]] = drawn[first[new]]
        taken = np.sort(np.concatenate([taken, pairs[new]]))
        open_, tries = np.flatnonzero(rows < 0), tries + 1
    return rows


def _among(values: npt.NDArray[np.int64], ascending: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """bool[len(values)]: whether each is in `ascending`."""
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[at] == values, np.bool_)


def _rate(
    rng: np.random.Generator,
    visits: UserVisits,
    rows: npt.NDArray[np.int64],
    tastes: Tastes,
    *,
    items: SyntheticItems,
) -> npt.NDArray[np.float64]:
    """Ratings in half steps: level, the user's and the item's bias, how near the item is to the taste, and noise."""
    strictness = rng.normal(0.0, 0.4, size=len(tastes.start))
    taste = ((tastes.start + tastes.end) / 2).astype(np.float32)
    near = np.einsum("rd,rd->r", taste[visits.users], items.vectors[rows])
    raw = 3.3 + strictness[visits.users] + items.quality[rows] + 0.9 * near + rng.normal(0.0, 0.6, size=len(rows))
    halves: npt.NDArray[np.float64] = np.clip(np.rint(raw * 2.0), 1.0, 10.0)
    return halves / 2.0
