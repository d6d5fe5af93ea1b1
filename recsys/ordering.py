"""Total order of candidates: higher score first, equal scores by item id."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_k(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the `k` best finite scores, best first, equal scores in order of row.

    `scores` is float32[n]; `-inf` marks a row that must not be returned. Rows are in order of item id wherever this
    project numbers items, so ties come out in order of item id. Returns int64[min(k, number of rows above -inf)].
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
