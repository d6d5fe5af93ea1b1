"""Where a candidate stands among the others of its request, by single features."""

from __future__ import annotations

from collections.abc import Sequence

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


def places(columns: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """float32[n, len(columns)]: how many candidates have a larger value, plus 1. Equal values share a place."""
    n = len(columns[0])
    result = np.empty((n, len(columns)), np.float32)
    for position, values in enumerate(columns):
        result[:, position] = n - np.searchsorted(np.sort(values), values, side="right") + 1
    return result
