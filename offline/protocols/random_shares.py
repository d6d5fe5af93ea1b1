"""random-60-20-20: each event falls into fit, validation or test by itself; relevant is what was rated 4 or higher.

The split ignores time: models are trained on what a user did after the test events. It is here to compare with those
who report it. The moment of a request is that of the last event of its history. Users without a relevant event in a
part are left out of that part.
"""

from __future__ import annotations

import numpy as np

from offline.dataset.interactions import Dataset
from offline.dataset.splits import SplitConfig, keep
from offline.protocols.folds import Plan
from offline.protocols.refitted import FIT, TEST, VALIDATION, Parts, plan_refitted
from offline.protocols.targets import positive_events
from recsys.errors import DataError

RELEVANT_VALUE = 4.0
SHARES = (0.6, 0.2, 0.2)


def plan_random_shares(dataset: Dataset, config: SplitConfig) -> Plan:
    """60, 20 and 20 % of all events, to the event, drawn with the seed.

    Raises DataError where a part has no relevant event.
    """
    events = positive_events(dataset.interactions)
    n = len(events)
    bounds = np.round(np.cumsum(SHARES)[:2] * n).astype(np.int64)
    part = np.full(n, TEST, np.int8)
    order = np.random.default_rng(config.seed).permutation(n)
    part[order[: bounds[0]]] = FIT
    part[order[bounds[0] : bounds[1]]] = VALIDATION
    relevant = events.values >= RELEVANT_VALUE
    if not all((relevant & (part == name)).any() for name in (VALIDATION, TEST)):
        raise DataError(
            f"{dataset.name}: no event with a value of {RELEVANT_VALUE:g} or more in each held-out part; "
            f"{config.protocol} needs ratings on a scale up to 5"
        )
    return plan_refitted(keep(dataset, events), Parts(events, part, relevant), config, moment="history", kind="all")
