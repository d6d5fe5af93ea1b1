"""Who asks for an item, and when: counts over windows, of all users, of those who return, and by stage of a user.

Newcomers begin with well-known items; who returns takes what is new or what others return for. Counts of both kinds
together say what newcomers take, since they are most of a log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.features.events import DAY, ItemEvents, count, relative_log

WINDOW_DAYS = (7, 30, 90, 365)
DECAY_HALF_LIFE_DAYS = 30.0
RETURNING_AFTER_DAYS = 7.0
"""An event is a returning user's when it is so much later than the user's first one."""
PRIOR_EVENTS = 10.0
"""Events of the mean item that every item starts with, where a share or a mean is taken."""
STAGES = (0, 20, 40, 80, 160, 320)
"""A user's stage: in which of these steps the number of events before lies."""
STAGE_HALF_LIFE_DAYS = 90.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Demand:
    """Counts by item: one float64[items] per window of `WINDOW_DAYS`, then one over all."""

    counts: tuple[Floats, ...]
    returning: tuple[Floats, ...]
    decayed: Floats
    ages: Floats
    """float64[events]: days before the cut-off."""
    positions: NDArray[np.int64]
    """int64[events]: how many events the same user had before."""
    events: ItemEvents

    @classmethod
    def of(cls, events: ItemEvents, n: int, cutoff: int) -> Demand:
        """Counts the events of `n` items at `cutoff`."""
        ages = np.maximum(cutoff - events.timestamps, 0) / DAY
        positions, tenures = _stories(events)
        back = tenures > RETURNING_AFTER_DAYS
        windows = [ages <= days for days in WINDOW_DAYS] + [np.ones(len(ages), np.bool_)]
        return cls(
            tuple(count(events.item_rows[window], n) for window in windows),
            tuple(count(events.item_rows[window & back], n) for window in windows),
            count(events.item_rows, n, np.exp2(-ages / DECAY_HALF_LIFE_DAYS)),
            ages,
            positions,
            events,
        )

    def returning_share(self, window: int) -> Floats:
        """The part that returning users have in each item's events of one window."""
        every, back = self.counts[window], self.returning[window]
        mean = back.sum() / max(every.sum(), 1.0)
        share: Floats = (back + PRIOR_EVENTS * mean) / (every + PRIOR_EVENTS)
        return share

    def experience(self) -> tuple[Floats, Floats]:
        """Mean logarithm of 1 + events of the user: before the event, and in all."""
        users = self.events.user_rows
        totals = np.bincount(users)[users] if len(users) else users
        return self._shrunk_mean(np.log1p(self.positions)), self._shrunk_mean(np.log1p(totals))

    def stages(self) -> NDArray[np.float32]:
        """float32[items, len(STAGES)]: recent events by the user's stage then, relative to the mean item."""
        n = len(self.decayed)
        stage = stage_of(self.positions)
        recency = np.exp2(-self.ages / STAGE_HALF_LIFE_DAYS)
        columns = []
        for number in range(len(STAGES)):
            own = stage == number
            columns.append(relative_log(count(self.events.item_rows[own], n, recency[own])))
        return np.stack(columns, axis=1).astype(np.float32)

    def _shrunk_mean(self, values: Floats) -> Floats:
        n = len(self.decayed)
        mean = float(values.mean()) if len(values) else 0.0
        sums: Floats = count(self.events.item_rows, n, values) + PRIOR_EVENTS * mean
        return sums / (self.counts[-1] + PRIOR_EVENTS)


def stage_of(events: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """The stage of users with so many events."""
    return np.searchsorted(np.asarray(STAGES), events, side="right") - 1


def _stories(events: ItemEvents) -> tuple[NDArray[np.int64], Floats]:
    """Per event, the number of the user's events before, and the days since the user's first one."""
    users = events.user_rows
    if not len(users):
        return np.empty(0, np.int64), np.empty(0)
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    lengths = np.diff(starts, append=len(users))
    own_start = np.repeat(starts, lengths)
    tenures = (events.timestamps - events.timestamps[own_start]) / DAY
    return np.arange(len(users)) - own_start, tenures
