"""Links from past items to candidates, the numpy form of `recsys.kernels._links`, and the choice between both."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.allowed import RowNumbers
from recsys.kernels import COMPILED
from recsys.ordering import top_k

if COMPILED:
    from recsys.kernels import _links


class Links(Protocol):
    """Links between the items of a catalogue. Safe to use from several threads."""

    def best(
        self,
        rows: RowNumbers,
        weights: NDArray[np.float32],
        count: int,
        *,
        excluded: RowNumbers,
        passing: NDArray[np.uint8] | None,
    ) -> tuple[RowNumbers, NDArray[np.float32], RowNumbers]:
        """The `count` candidates with the highest scores above 0, best first, equal ones in order of row.

        `rows` int64[m] and `weights` float32[m] are the past items, each once; `excluded` int64[e] are rows that may
        not come, `passing` uint8[items] is 0 for others, None if there are none. Returns the rows int64[n], their
        scores float32[n], and int64[n] the positions in `rows` of what contributed most, the first of equals.
        """


def make_links(neighbours: NDArray[np.int32], weights: NDArray[np.float32]) -> Links:
    """`neighbours` int32[items, k]: rows that each row links to, each once; the row after the last is no link.
    `weights` float32[items, k]: above 0."""
    return _links.Links(neighbours, weights) if COMPILED else NumpyLinks(neighbours, weights)


class NumpyLinks:
    """With one sum for each item of the catalogue, so that it takes longer in a larger one."""

    def __init__(self, neighbours: NDArray[np.int32], weights: NDArray[np.float32]) -> None:
        self._neighbours = neighbours
        self._weights = weights

    def best(
        self,
        rows: RowNumbers,
        weights: NDArray[np.float32],
        count: int,
        *,
        excluded: RowNumbers,
        passing: NDArray[np.uint8] | None,
    ) -> tuple[RowNumbers, NDArray[np.float32], RowNumbers]:
        """See `Links`."""
        targets = self._neighbours.take(rows, axis=0)
        contributions = self._weights.take(rows, axis=0) * weights[:, None]
        n = len(self._neighbours)
        sums = np.bincount(targets.ravel(), weights=contributions.ravel(), minlength=n + 1)[:-1]
        sums[excluded] = 0
        if passing is not None:
            sums[passing == 0] = 0
        scores = np.where(sums > 0, sums, -np.inf).astype(np.float32)
        found = top_k(scores, count)
        return found, scores[found], self._seeds(targets, contributions, found)

    def _seeds(self, targets: NDArray[np.int32], contributions: NDArray[np.float32], found: RowNumbers) -> RowNumbers:
        """int64[n]: for each candidate row the position of the past item that contributed most."""
        n, n_past = len(found), len(targets)
        if not n:
            return np.empty(0, np.int64)
        # The table has one line per candidate, and a last line that collects all links to other items.
        line_of_row = np.full(len(self._neighbours) + 1, n, np.int64)
        line_of_row[found] = np.arange(n)
        # The link from past item j to candidate i is cell (i, j), flat i * n_past + j: three times as fast as pairs.
        cells = line_of_row.take(targets)
        cells *= n_past
        cells += np.arange(n_past)[:, None]
        table = np.zeros((n + 1) * n_past, np.float32)
        table[cells.ravel()] = contributions.ravel()
        seeds: RowNumbers = table.reshape(n + 1, n_past)[:n].argmax(axis=1)
        return seeds
