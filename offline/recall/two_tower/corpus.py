"""What one phase of training learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from offline.dataset.interactions import TrainingEvents
from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.trend import Trend, measure_trend


@dataclass(frozen=True)
class Corpus:
    """Events up to a moment, and how popular items were by then."""

    events: TrainingEvents
    trend: Trend
    n_items: int
    trained: NDArray[np.bool_] | None = None
    """bool[items]: items whose id was trained, where that happened on other events than these."""

    @classmethod
    def of(cls, events: TrainingEvents, n_items: int, cutoff: int, config: TwoTowerConfig) -> Corpus:
        """The events up to `cutoff` and their trend."""
        events = events_where(events, events.timestamps <= cutoff)
        pooled = config.pooled
        trend = measure_trend(
            events, n_items, half_lives_days=pooled.half_lives_days, n_moments=pooled.moments, cutoff=cutoff
        )
        return cls(events, trend, n_items)

    def knowing(self, trained: NDArray[np.bool_]) -> Corpus:
        """The same events, for towers that know the ids of the items `trained`."""
        return replace(self, trained=trained)

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """bool[items]: whether anybody took the item, or its id was trained before."""
        if self.trained is not None:
            return self.trained
        return np.bincount(self.events.item_rows, minlength=self.n_items) > 0

    @property
    def latest(self) -> NDArray[np.float32]:
        """float32[items, half-lives]: popularity at the cut-off."""
        latest: NDArray[np.float32] = self.trend.features[-1]
        return latest


def events_where(events: TrainingEvents, kept: NDArray[np.bool_]) -> TrainingEvents:
    """The events where `kept`, of the same users; these very ones where all are."""
    if kept.all():
        return events
    counts = np.bincount(events.user_rows[kept], minlength=len(events.indptr) - 1)
    return TrainingEvents(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        events.user_rows[kept],
        events.item_rows[kept],
        events.timestamps[kept],
        events.values[kept],
        events.weights[kept],
    )
