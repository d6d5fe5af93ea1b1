"""The plan of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from offline.dataset.interactions import Dataset
from offline.dataset.splits import Protocol, SplitConfig
from offline.protocols.folds import Plan
from offline.protocols.leave_one_out import plan_leave_one_out
from offline.protocols.random_shares import plan_random_shares
from offline.protocols.strong import plan_strong
from offline.protocols.windows import plan_windows

PLANS: Mapping[Protocol, Callable[[Dataset, SplitConfig], Plan]] = {
    "temporal": plan_windows,
    "time-to-split": plan_windows,
    "leave-one-out": plan_leave_one_out,
    "strong-generalisation": plan_strong,
    "random-60-20-20": plan_random_shares,
}


def plan_of(dataset: Dataset, config: SplitConfig) -> Plan:
    """The plan of `config.protocol` on `dataset`; raises DataError where the data do not suffice."""
    return PLANS[config.protocol](dataset, config)
