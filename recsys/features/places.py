"""Where a candidate stands among the others of its request, by single features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PLACED = (
    "item_count_30d",
    "item_returning_30d",
    "item_returning_365d",
    "cross_stage_count",
    "cross_recent_similarity",
    "cross_all_similarity",
)
PLACE_NAMES = tuple(f"among_{name}_rank" for name in PLACED)


def places(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32[n, columns]: by column, how many candidates have a larger value, plus 1. Equal values share a place."""
    ordered = np.sort(columns.T)
    at_most = [
        np.searchsorted(values, own, side="right") for values, own in zip(ordered, columns.T.copy(), strict=True)
    ]
    return np.stack([len(columns) + 1 - count for count in at_most], axis=1).astype(np.float32)
