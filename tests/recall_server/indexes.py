"""Item vectors as trained ones are, and graphs that stand where hnswlib's does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from recall_server.channels.nearest import ItemIndex, ItemSearch

Vectors = NDArray[np.float32]


class Searching(Protocol):
    nearest: ItemSearch


SearchingT = TypeVar("SearchingT", bound=Searching)


def always_by_index(channel: SearchingT) -> SearchingT:
    """The channel, with its index used however few items there are."""
    channel.nearest = replace(channel.nearest, exact_rows=0)
    return channel


def without_index(channel: SearchingT) -> SearchingT:
    """The channel, searching exactly."""
    channel.nearest = replace(channel.nearest, index=None)
    return channel


def clustered(
    rng: np.random.Generator, *, items: int, users: int, dim: int = 32, clusters: int = 200
) -> tuple[Vectors, Vectors]:
    """Vectors of items and users, with what makes those of trained towers hard to search.

    A few dimensions hold most of the variance, clusters are of very unlike size, lengths differ by popularity. A user
    is between three clusters.
    """
    variance = 1 / np.sqrt(np.arange(1, dim + 1))
    variance /= np.linalg.norm(variance)
    centres = rng.normal(size=(clusters, dim)) * variance
    share = 1 / np.arange(1, clusters + 1) ** 0.8
    share /= share.sum()
    placed = centres[rng.choice(clusters, items, p=share)] + 0.5 * rng.normal(size=(items, dim)) * variance
    placed *= rng.lognormal(sigma=0.2, size=(items, 1))
    mixed = rng.dirichlet(np.ones(3), users)
    tastes = np.einsum("uc,ucd->ud", mixed, centres[rng.choice(clusters, (users, 3), p=share)])
    tastes += 0.15 * rng.normal(size=tastes.shape) * variance
    return placed.astype(np.float32), tastes.astype(np.float32)


@dataclass
class PerfectGraph:
    """Finds what a scan would find, among the items at `labels`; remembers how wide each search was, and its user."""

    vectors: Vectors
    labels: NDArray[np.int64]
    reaches: int | None = None
    """Most items that it finds, as a graph with too few links; None: all."""
    asked: list[tuple[int, int]] = field(default_factory=list)
    """Users and width of each search."""

    def knn_query(self, users: Vectors, k: int, num_threads: int) -> tuple[Any, Any]:
        assert num_threads == 1
        self.asked.append((len(users), k))
        if k > (len(self.labels) if self.reaches is None else self.reaches):
            raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")
        scores = users @ self.vectors[self.labels].T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return self.labels[best].astype(np.uint64), 1 - np.take_along_axis(scores, best, axis=1)

    def index(self, width: int) -> ItemIndex:
        return ItemIndex(self, self.vectors.shape[1], len(self.labels), width)
