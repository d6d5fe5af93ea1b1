"""How large a generated world is, and how many ratings each of its users gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from recsys.errors import InvalidRequest

FULL_ROWS = 32_000_000
FULL_ITEMS = 87_000
"""MovieLens 32M has 32.0 million ratings of 87,585 films by 200,948 users."""
ROWS_PER_USER = 160
ITEM_GROWTH = 0.9
"""The catalogue grows with this power of the ratings: MovieLens 1M has 3,883 films, 32M has 87,585."""
SMALLEST_CATALOGUE = 1_000
FEWEST_ROWS = 10_000

LEAST_PER_USER = 20
"""MovieLens includes users from 20 ratings on."""
SPREAD = 1.45
"""Standard deviation of the logarithm of a user's ratings beyond those."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Numbers of ratings, users and items."""

    rows: int
    users: int
    items: int

    @classmethod
    def of(cls, rows: int) -> Self:
        """The shape for `rows` ratings; raises InvalidRequest for fewer than `FEWEST_ROWS`."""
        if rows < FEWEST_ROWS:
            raise InvalidRequest(f"rows is {rows}, expected at least {FEWEST_ROWS}; a smaller world has no long tails")
        items = round(FULL_ITEMS * (rows / FULL_ROWS) ** ITEM_GROWTH)
        return cls(rows, round(rows / ROWS_PER_USER), max(items, SMALLEST_CATALOGUE))

    @property
    def most_per_user(self) -> int:
        """No user rates more than half of the catalogue."""
        return self.items // 2


def draw_counts(rng: np.random.Generator, shape: Shape) -> npt.NDArray[np.int64]:
    """Ratings per user, int64[users], `LEAST_PER_USER` to `most_per_user` each and `rows` in all: log-normal."""
    room = shape.most_per_user - LEAST_PER_USER
    share = np.exp(SPREAD * rng.normal(size=shape.users))
    missing = shape.rows - LEAST_PER_USER * shape.users
    # Users at the limit keep it; what they would have had beyond is shared among the others, as often as it takes.
    extra = np.zeros(shape.users)
    while missing - extra.sum() > 0.5:
        free = extra < room
        extra[free] += (missing - extra.sum()) * share[free] / share[free].sum()
        extra = np.minimum(extra, room)
    # Rounded so that running sums are, which keeps the total.
    ends = np.rint(np.cumsum(extra)).astype(np.int64)
    return LEAST_PER_USER + np.diff(ends, prepend=0)
