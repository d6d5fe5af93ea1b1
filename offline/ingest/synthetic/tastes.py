"""Who likes what: topics of items, and users who mix topics in shares that drift over the years.

Given the topic, an item does not depend on the user: the expected matrix of users and items at any moment has as many
dimensions as there are topics, at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from offline.ingest.synthetic.catalogue import DIMENSIONS, SyntheticItems, unit

TOPICS = 160
FOCUS = 11.0
"""How much more a topic asks for an item in its direction than for one at a right angle, as a logarithm."""
CIRCLES = 60
"""Groups of users of similar taste."""
CHOOSINESS = 24.0
"""The same for a user's topics."""
GENERAL_SHARE = 0.05
"""Share of the choices that have nothing to do with taste: the topic after the last, what everybody asks for."""
TURN = 2.4
"""Largest angle, in radians, by which a user's taste turns."""
DRIFT_DAYS = 1_200.0
"""How long that takes, from the user's first rating on."""


@dataclass(frozen=True, slots=True)
class Topics:
    """What each topic asks for; the last one is the general one."""

    centres: npt.NDArray[np.float64]
    """float64[TOPICS, DIMENSIONS], of unit length."""
    cumulative: npt.NDArray[np.float64]
    """float64[(TOPICS + 1) · n]: topic number + cumulative share of its items, ascending as a whole."""
    n: int

    @classmethod
    def of(cls, rng: np.random.Generator, items: SyntheticItems) -> Self:
        """Draws topics as random items' directions, so that there are more where there are more items."""
        centres = items.vectors[rng.choice(len(items), TOPICS, replace=False)].astype(np.float64)
        n, table = len(items), np.empty((TOPICS + 1, len(items)))
        for topic in range(TOPICS):
            table[topic] = np.cumsum(
                items.weights * np.exp(FOCUS * (items.vectors @ centres[topic].astype(np.float32)))
            )
        table[TOPICS] = np.cumsum(items.weights)
        table /= table[:, -1:]
        # A share of exactly 1 would be the next topic's 0.
        table[:, -1] = np.nextafter(1.0, 2.0)
        return cls(centres, (table + np.arange(TOPICS + 1)[:, None]).ravel(), n)

    def draw(self, rng: np.random.Generator, topics: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """An item row for each topic number, by its demand at the peak."""
        found = np.searchsorted(self.cumulative, topics + rng.random(len(topics)), side="right")
        rows: npt.NDArray[np.int64] = np.minimum(found - topics * self.n, self.n - 1)
        return rows


@dataclass(frozen=True, slots=True)
class Tastes:
    """The tastes of u users when they begin, and what they drift to."""

    start: npt.NDArray[np.float64]
    """float64[u, DIMENSIONS], of unit length."""
    end: npt.NDArray[np.float64]

    @classmethod
    def draw(cls, rng: np.random.Generator, circles: npt.NDArray[np.float64], users: int) -> Self:
        """A circle's taste and something of one's own, turned towards another circle's."""
        start, other = (
            unit(circles[rng.integers(len(circles), size=users)] + 0.12 * rng.normal(size=(users, DIMENSIONS)))
            for _ in range(2)
        )
        angle = rng.uniform(0.0, TURN, size=(users, 1))
        return cls(start, unit(np.cos(angle) * start + np.sin(angle) * other))

    def cumulative(self, topics: Topics) -> npt.NDArray[np.float64]:
        """float64[2 · u · (TOPICS + 1)]: row 2 · user (start) and 2 · user + 1 (end) + cumulative shares of topics."""
        both = np.stack([self.start, self.end], axis=1).reshape(-1, DIMENSIONS)
        shares = np.exp(CHOOSINESS * (both @ topics.centres.T))
        shares *= (1 - GENERAL_SHARE) / shares.sum(axis=1, keepdims=True)
        table: npt.NDArray[np.float64] = np.cumsum(np.hstack([shares, np.full((len(both), 1), GENERAL_SHARE)]), axis=1)
        table[:, -1] = np.nextafter(1.0, 2.0)
        table += np.arange(len(both))[:, None]
        return table.ravel()


def draw_circles(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """float64[CIRCLES, DIMENSIONS], of unit length."""
    return unit(rng.normal(size=(CIRCLES, DIMENSIONS)))
