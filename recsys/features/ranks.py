"""The rank of a candidate among the candidates of its request, by single features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RANKED_COLUMNS = (
    "item_count_30d",
    "item_returning_30d",
    "item_returning_365d",
    "cross_stage_count",
    "cross_recent_similarity",
    "cross_all_similarity",
)
RANK_NAMES = tuple(f"among_{name}_rank" for name in RANKED_COLUMNS)


def within_request_ranks(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[n, columns]: by column, 1 + the number of candidates with a larger value. Equal values share a rank."""
    ascending = np.sort(columns.T)
    not_larger = [
        np.searchsorted(values, own, side="right") for values, own in zip(ascending, columns.T.copy(), strict=True)
    ]
    return np.stack([len(columns) + 1 - count for count in not_larger], axis=1).astype(np.float32)
