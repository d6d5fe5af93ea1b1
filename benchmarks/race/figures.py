"""Figures of several rounds: percentiles, and ratios of what was measured in the same round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and the least and the largest of them."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Raises ValueError where there are no values."""
        if not values:
            raise ValueError("no rounds; at least one is needed")
        return cls(statistics.median(values), min(values), max(values), len(values))

    @classmethod
    def of_ratios(cls, above: Sequence[float], below: Sequence[float]) -> Self:
        """Of `above / below`, round by round: what slows a whole round down cancels out. Over 0 it is infinite."""
        return cls.of([one / other if other else math.inf for one, other in zip(above, below, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed (nearest rank).

    Raises ValueError where there are no values.
    """
    if not values:
        raise ValueError("no values; at least one is needed")
    ordered = sorted(values)
    rank = -int(-share * len(ordered) // 1)  # rounded up
    return ordered[max(rank, 1) - 1]
