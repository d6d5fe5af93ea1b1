"""The moving average by which processes know how long things take them at present."""

from __future__ import annotations

ALPHA = 0.1
"""Weight of the latest value; that of each earlier one is 1 - ALPHA times that of the next."""


def updated(average: float, latest: float, alpha: float = ALPHA) -> float:
    """The exponentially weighted moving average after one more value: average + alpha (latest - average)."""
    return average + alpha * (latest - average)
