"""Item popularity statistics: event counts by item over time windows, for all users, returning users and user stages.

New users begin with well-known items; returning users take new items, or items that others return for. A count over
all users describes what new users take, since most events of a log are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Floats64
from recsys.features.events import DAY, ItemEvents, count, relative_log

WINDOW_DAYS = (7, 30, 90, 365)
DECAY_HALF_LIFE_DAYS = 30.0
RETURNING_AFTER_DAYS = 7.0
"""An event is a returning user's when the user's first one is more days ago than this."""
PRIOR_EVENTS = 10.0
"""Events of the mean item that every item starts with, where a share or a mean is taken."""
STAGES = (0, 20, 40, 80, 160, 320)
"""Lower bounds of the stages of users, in earlier events of the same user."""
STAGE_HALF_LIFE_DAYS = 90.0


@dataclass(frozen=True, slots=True)
class ItemStatistics:
    """Event counts by item: one float64[items] per window of `WINDOW_DAYS`, then one over all time."""

    counts: tuple[Floats64, ...]
    returning: tuple[Floats64, ...]
    decayed: Floats64
    ages: Floats64
    """float64[events]: days before the cut-off."""
    positions: NDArray[np.int64]
    """int64[events]: how many events the same user had before."""
    events: ItemEvents

    @classmethod
    def of(cls, events: ItemEvents, n: int, cutoff: int) -> ItemStatistics:
        """Counts the events of `n` items up to `cutoff`."""
        ages = np.maximum(cutoff - events.timestamps, 0) / DAY
        positions, tenures = _user_progress(events)
        returning = tenures > RETURNING_AFTER_DAYS
        windows = [ages <= days for days in WINDOW_DAYS] + [np.ones(len(ages), np.bool_)]
        return cls(
            tuple(count(events.item_rows[window], n) for window in windows),
            tuple(count(events.item_rows[window & returning], n) for window in windows),
            count(events.item_rows, n, np.exp2(-ages / DECAY_HALF_LIFE_DAYS)),
            ages,
            positions,
            events,
        )

    def returning_share(self, window: int) -> Floats64:
        """float64[items]: the share of returning users in each item's events of one window, shrunk to that of all:
        (returning + prior · overall share) / (count + prior)."""
        counts, returning = self.counts[window], self.returning[window]
        mean = returning.sum() / max(counts.sum(), 1.0)
        share: Floats64 = (returning + PRIOR_EVENTS * mean) / (counts + PRIOR_EVENTS)
        return share

    def experience(self) -> tuple[Floats64, Floats64]:
        """float64[items] each: shrunk means, over the item's events, of log(1 + the user's events before; in all)."""
        users = self.events.user_rows
        totals = np.bincount(users)[users] if len(users) else users
        return self._shrunk_mean(np.log1p(self.positions)), self._shrunk_mean(np.log1p(totals))

    def stages(self) -> NDArray[np.float32]:
        """float32[items, len(STAGES)]: recent events by the user's stage at the time, relative to the mean item."""
        n = len(self.decayed)
        stage = stage_of(self.positions)
        recency = np.exp2(-self.ages / STAGE_HALF_LIFE_DAYS)
        columns = []
        for number in range(len(STAGES)):
            own = stage == number
            columns.append(relative_log(count(self.events.item_rows[own], n, recency[own])))
        return np.stack(columns, axis=1).astype(np.float32)

    def _shrunk_mean(self, values: Floats64) -> Floats64:
        """float64[items]: (sum of the item's values + prior · overall mean) / (count + prior)."""
        n = len(self.decayed)
        mean = float(values.mean()) if len(values) else 0.0
        sums: Floats64 = count(self.events.item_rows, n, values) + PRIOR_EVENTS * mean
        return sums / (self.counts[-1] + PRIOR_EVENTS)


def stage_of(events: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """The stage of users with this many earlier events."""
    return np.searchsorted(np.asarray(STAGES), events, side="right") - 1


def _user_progress(events: ItemEvents) -> tuple[NDArray[np.int64], Floats64]:
    """int64[events], float64[events]: the number of the user's earlier events, and the days since the first of them."""
    users = events.user_rows
    if not len(users):
        return np.empty(0, np.int64), np.empty(0)
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    lengths = np.diff(starts, append=len(users))
    own_start = np.repeat(starts, lengths)
    tenures = (events.timestamps - events.timestamps[own_start]) / DAY
    return np.arange(len(users)) - own_start, tenures
