"""Adaptive quality, off by default: while stages are slow, requests get fewer candidates, and their answers say so.

It is never active where quality is the question: requests that name their time (`as_of`), as replay's do, and
everything offline get what the policy says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """When the share of candidates changes, and how far."""

    floor: float = 0.25
    """Least share of the policy's candidates."""
    high: float = 0.7
    """The share falls if the 90th percentile of the stage's time is more than this part of the time it had."""
    low: float = 0.4
    """The share rises if the 90th percentile is less than this part."""
    period_seconds: float = 0.25
    """Time between two changes."""


class StageQuality:
    """The share of the policy's candidates that one stage works on, between `floor` and 1."""

    FALL, RISE = 0.8, 1.25
    """Factors of one change: from the floor to 1 it takes seven periods without load."""
    ENOUGH = 20
    """Requests that a percentile is taken of; where fewer have come in `PATIENCE` periods, there is no load."""
    PATIENCE = 4

    def __init__(self, limits: QualityLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = 1.0
        self._limits = limits
        self._clock = clock
        self._changed = clock()
        self._used: list[float] = []

    @property
    def share(self) -> float:
        """The share at this moment."""
        self._decide()
        return self._share

    def observe(self, seconds: float, allowed: float, requests: int = 1) -> None:
        """Takes note of calls for so many requests that took `seconds` of the `allowed` ones."""
        self._used += [seconds / allowed if allowed > 0 else 1.0] * requests
        self._decide()

    def _decide(self) -> None:
        periods = int((self._clock() - self._changed) / self._limits.period_seconds)
        enough = len(self._used) >= self.ENOUGH
        if periods < (1 if enough else self.PATIENCE):
            return
        used = float(np.percentile(self._used, 90)) if enough else 0.0
        self._changed, self._used = self._clock(), []
        if used > self._limits.high:
            self._share = max(self._limits.floor, self._share * self.FALL)
        elif used < self._limits.low:
            self._share = min(1.0, self._share * self.RISE**periods)


def reduced(count: int, share: float, *, least: int) -> int:
    """`share` of `count`, but not fewer than the `least` that were asked for."""
    return max(least, count if share == 1.0 else ceil(count * share))


class Quality:
    """The shares of both stages."""

    def __init__(self, limits: QualityLimits) -> None:
        self.recall = StageQuality(limits)
        self.rank = StageQuality(limits)
