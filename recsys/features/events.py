"""Events up to a cut-off, and how features count them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Ids

MISSING = -1000.0
"""What a feature is where it is unknown. Finite, so that every tree library treats it alike."""

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class ItemEvents:
    """Events up to a cut-off, as four parallel arrays; those of one user stand in order of time."""

    item_rows: NDArray[np.int32]
    """RowNumbers of the catalogue."""
    timestamps: Ids
    values: NDArray[np.float32]
    """Rating or weight; NaN where there is none."""
    user_rows: NDArray[np.int32]
    """0 to the number of users - 1, ascending."""


def count(rows: NDArray[np.int32], n: int, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """float64[n]: events, or the sum of their weights, by item."""
    return np.bincount(rows, weights, minlength=n).astype(np.float64)


def relative_log(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many times as many as the mean item has, as a logarithm with one event added to both."""
    mean = float(counts.mean()) if len(counts) else 0.0
    relative: NDArray[np.float64] = np.log1p(counts) - np.log1p(mean)
    return relative


def share_below(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of items with fewer events."""
    return np.searchsorted(np.sort(counts), counts, side="left") / max(len(counts), 1)
