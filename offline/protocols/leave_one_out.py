"""leave-one-out: each user's last event tests, the one before validates, in stable order of (time, file order).

Users with fewer than three events are left out. The moment of a request is that of the last event before its target,
unless `split.moment` is `target`, the target's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offline.dataset.interactions import Dataset, Interactions
from offline.dataset.splits import SplitConfig, keep
from offline.protocols.folds import Plan
from offline.protocols.refitted import FIT, TEST, VALIDATION, Parts, plan_refitted
from offline.protocols.targets import positive_events
from recsys.domain import Ids
from recsys.errors import DataError

MIN_EVENTS = 3


def plan_leave_one_out(dataset: Dataset, config: SplitConfig) -> Plan:
    """Raises DataError where no user has three events."""
    events = positive_events(dataset.interactions)
    events = events.take(from_the_end(events.user_ids, counts=True) >= MIN_EVENTS)
    if not len(events):
        raise DataError(f"{dataset.name}: no user has {MIN_EVENTS} events; leave-one-out needs a longer log")
    return plan_refitted(keep(dataset, events), last_two(events), config, moment=config.moment, kind="last")


def last_two(events: Interactions) -> Parts:
    """Everything but each user's last two events fits."""
    later_events = from_the_end(events.user_ids)
    part = np.select([later_events == 0, later_events == 1], [TEST, VALIDATION], FIT).astype(np.int8)
    return Parts(events, part, np.ones(len(events), np.bool_))


def from_the_end(user_ids: Ids, *, counts: bool = False) -> NDArray[np.int64]:
    """int64[n]: how many later events the user has; with `counts`, how many events in all."""
    _, rows, sizes = np.unique(user_ids, return_inverse=True, return_counts=True)
    if counts:
        return sizes[rows].astype(np.int64)
    order = np.argsort(rows, kind="stable")
    ends = np.cumsum(sizes)
    later_events = np.empty(len(rows), np.int64)
    later_events[order] = np.repeat(ends, sizes) - 1 - np.arange(len(rows))
    return later_events
