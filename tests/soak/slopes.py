"""Whether a row of samples grows: the Theil-Sen slope, the median of the slopes of all pairs (Sen 1968).

It ignores up to 29 % of outliers, which garbage collection and check points of a database are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import theilslopes

HOUR = 3600.0
SHARE = 0.03
"""Growth per hour, as a share of the level, that counts as noise."""
SPARE = {"rss MiB": 2.0, "pss MiB": 2.0, "descriptors": 2.0, "threads": 1.0}
"""Growth per hour that counts as noise whatever the level."""
_MOST_POINTS = 400


@dataclass(frozen=True, slots=True)
class Slope:
    """How one quantity of one process went."""

    level: float
    """Its median."""
    per_hour: float
    """Theil-Sen."""
    low: float
    """Lower end of the slope's 95 % interval, per hour."""

    def grows(self, kind: str) -> bool:
        """Whether it grows by more than noise, and not by chance."""
        return self.low > 0 and self.per_hour > max(SHARE * self.level, SPARE.get(kind, 0.0))


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Of samples in order of time; at least three."""
    step = max(1, len(values) // _MOST_POINTS)
    x, y = np.asarray(seconds)[::step], np.asarray(values)[::step]
    found = theilslopes(y, x)
    return Slope(float(np.median(y)), float(found.slope) * HOUR, float(found.low_slope) * HOUR)
