"""Sorting candidates, higher score first and equal scores by item id; and sets of ids, in order of id.

The sets are those of one request, a few hundred ids: sorting them is many times faster than the hash tables of
`np.unique` and `np.isin`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the `k` best finite scores, best first, equal scores in order of row.

    `scores` is float32[n]; `-inf` marks a row that must not be returned. Throughout this project rows are in order
    of item id, so ties are in order of item id. Returns int64[min(k, number of rows above -inf)].
    """
    eligible = int(np.count_nonzero(scores > -np.inf))
    k = min(k, eligible)
    if k <= 0:
        return np.empty(0, np.int64)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > threshold)
    tied = np.flatnonzero(scores == threshold)[: k - len(above)]
    return np.concatenate([above[np.lexsort((above, -scores[above]))], tied])


def order_by_score(scores: NDArray[np.float32], item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that sort items by descending score, equal scores by ascending item id."""
    return np.lexsort((item_ids, -scores))


def distinct(item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[m]: the distinct ids, ascending."""
    ordered = np.sort(item_ids)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def has_repeats(item_ids: NDArray[np.int64]) -> bool:
    """Whether any id occurs more than once."""
    ordered = np.sort(item_ids)
    return bool(np.count_nonzero(ordered[1:] == ordered[:-1]))


def are_among(item_ids: NDArray[np.int64], distinct_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool[len(item_ids)]: whether each id is one of `distinct_ids`, which are ascending."""
    if not len(distinct_ids):
        return np.zeros(len(item_ids), np.bool_)
    positions = np.minimum(np.searchsorted(distinct_ids, item_ids), len(distinct_ids) - 1)
    found: NDArray[np.bool_] = distinct_ids[positions] == item_ids
    return found
