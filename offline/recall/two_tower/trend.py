"""Decayed popularity of every item at moments of the past, so that training sees what was known then and no more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.dataset.interactions import TrainingEvents
from recsys.domain import Ids

SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Trend:
    """Popularity features by moment; moment j knows the events up to and including `moments[j]`."""

    moments: Ids
    """int64[m], ascending. The first one is earlier than every event, the last one is the cut-off."""
    features: NDArray[np.float32]
    """float32[m, items, half-lives]: log((c + 1) / (mean of c + 1)), c the decayed count of the item."""

    def before(self, timestamps: Ids) -> NDArray[np.int64]:
        """The latest moment strictly earlier than each timestamp: what happened at that very second is not known."""
        return np.maximum(np.searchsorted(self.moments, timestamps, side="left") - 1, 0)


def measure_trend(
    events: TrainingEvents, n_items: int, *, half_lives_days: tuple[float, ...], n_moments: int, cutoff: int
) -> Trend:
    """Counts events up to `cutoff` at quantiles of time; an event of age one half-life counts one half."""
    order = np.argsort(events.timestamps, kind="stable")
    times, items, weights = events.timestamps[order], events.item_rows[order], events.weights[order]
    moments = _moments(times, n_moments, cutoff)
    half_lives = np.asarray(half_lives_days) * SECONDS_PER_DAY
    counts = np.zeros((n_items, len(half_lives)))
    features = np.zeros((len(moments), n_items, len(half_lives)), np.float32)
    ends = np.searchsorted(times, moments, side="right")
    for j in range(1, len(moments)):
        new = slice(int(ends[j - 1]), int(ends[j]))
        age = float(moments[j]) - times[new]
        for column, half_life in enumerate(half_lives):
            counts[:, column] *= 0.5 ** (float(moments[j] - moments[j - 1]) / half_life)
            decayed = weights[new] * 0.5 ** (age / half_life)
            counts[:, column] += np.bincount(items[new], weights=decayed, minlength=n_items)
        features[j] = np.log((counts + 1) / (counts.mean(axis=0) + 1))
    return Trend(moments, features)


def _moments(times: Ids, n: int, cutoff: int) -> Ids:
    """Up to `n` quantiles of time between a second before the first event and the cut-off."""
    first = int(times[0]) - 1 if len(times) else cutoff - 1
    inner = np.quantile(times, np.arange(1, n) / n, method="lower") if len(times) else np.empty(0, np.int64)
    return np.unique(np.concatenate([[first], inner, [cutoff]]).astype(np.int64))
