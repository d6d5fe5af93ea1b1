"""Copies of the items of a catalogue, and their vectors, for `enlarge.py`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Floats32

NEIGHBOURS = 48
"""Items towards which a copy is moved."""
WAY = 0.15
"""Standard deviation of the part of the way to each."""
AT_ONCE = 100_000
"""Copies that are made in one step, to bound memory."""


@dataclass(frozen=True, eq=False)
class Copies:
    """Which item of the base each item of the enlarged catalogue is a copy of. The first items are the base's own."""

    base: NDArray[np.int64]
    """int64[items]: a row of the base."""

    @classmethod
    def make(cls, of: int, items: int, rng: np.random.Generator) -> Self:
        """`items` copies of `of` items: families are of very unlike size."""
        share = rng.lognormal(size=of)
        base = np.concatenate([np.arange(of), rng.choice(of, items - of, p=share / share.sum())])
        return cls(base)

    def __len__(self) -> int:
        return len(self.base)

    @cached_property
    def _families(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All rows by family and number, where each family starts, and its size."""
        order = np.argsort(self.base, kind="stable")
        sizes = np.bincount(self.base)
        return order, np.cumsum(sizes) - sizes, sizes

    @cached_property
    def number(self) -> NDArray[np.int64]:
        """int64[items]: 0 for the item of the base itself, then counted."""
        order, starts, _ = self._families
        number = np.empty(len(self), np.int64)
        number[order] = np.arange(len(self)) - starts[self.base[order]]
        return number

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """Sums of 1, 1/2, 1/3, …: the popularity of the first copies of a family."""
        return np.cumsum(1 / np.arange(1, self.number.max() + 2))

    def draw(self, base_rows: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
        """A row for each of `base_rows`: one of its copies, a popular one more often."""
        order, starts, sizes = self._families
        wanted = rng.random(base_rows.shape) * self._weights[sizes[base_rows] - 1]
        number = np.minimum(np.searchsorted(self._weights, wanted), sizes[base_rows] - 1)
        return order[starts[base_rows] + number]

    def scattered(self, vectors: Floats32, rng: np.random.Generator) -> Floats32:
        """float32[items, dim]: a vector per copy, around that of its item; where that is 0, those of its copies are."""
        known = np.flatnonzero(vectors.any(axis=1))
        near = known[_nearest(vectors[known], min(NEIGHBOURS, len(known) - 1))]
        place = np.full(len(vectors), -1)
        place[known] = np.arange(len(known))
        scattered = vectors[self.base]
        for start in range(0, len(self), AT_ONCE):
            rows = np.arange(start, min(start + AT_ONCE, len(self)))
            rows = rows[(self.number[rows] > 0) & (place[self.base[rows]] >= 0)]
            origin = vectors[self.base[rows]]
            for neighbours in near[place[self.base[rows]]].T:
                part = rng.normal(scale=WAY, size=(len(rows), 1)).astype(np.float32)
                scattered[rows] += part * (vectors[neighbours] - origin)
        return scattered


def _nearest(vectors: Floats32, k: int) -> NDArray[np.int64]:
    """int64[n, k]: the nearest others of each vector that are not equal to it."""
    squares = (vectors**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * vectors @ vectors.T
    distances[distances < 1e-6 * squares.max(initial=0)] = np.inf
    return np.argpartition(distances, k - 1, axis=1)[:, :k]


def local_dimension(vectors: Floats32, rng: np.random.Generator, *, users: int = 100, k: int = 20) -> float:
    """In how many directions vectors vary in the neighbourhood of one: Levina and Bickel's maximum likelihood estimate.

    "Maximum Likelihood Estimation of Intrinsic Dimension", NIPS 2004. Equal vectors count once.
    """
    known, estimates = vectors[vectors.any(axis=1)], []
    for chosen in known[rng.choice(len(known), min(users, len(known)), replace=False)]:
        squares = ((known - chosen) ** 2).sum(axis=1)
        nearest = np.sqrt(np.sort(np.unique(squares[squares > 1e-9]))[:k])
        estimates.append((len(nearest) - 1) / np.log(nearest[-1] / nearest[:-1]).sum())
    return float(np.mean(estimates))
