"""Which figures a protocol is read by, and whose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offline.dataset.splits import Protocol, SplitConfig
from offline.protocols import Plan
from offline.protocols.targets import TargetKind, Targets

WARM, COLD = "warm users", "cold users"
"""With an event before the cut-off, and without."""
_NEXT = ("hit_rate@10", "ndcg@10", "mrr@10")
_LATER = ("ndcg@10", "hit_rate@10", "recall@10")
_SHOWN: dict[Protocol, tuple[str, ...]] = {
    "leave-one-out": _NEXT,
    "strong-generalisation": ("normalised_recall@20", "normalised_recall@50", "ndcg@100"),
    "random-60-20-20": ("precision@10", "ndcg@10", "recall@10"),
}
_CHOSEN: dict[Protocol, str] = {"strong-generalisation": "ndcg@100", "random-60-20-20": "precision@10"}


def shown_metrics(protocol: Protocol, kind: TargetKind) -> tuple[str, ...]:
    """The figures of the table, in order."""
    return _SHOWN.get(protocol, _LATER if kind == "all" else _NEXT)


def chosen_metric(protocol: Protocol) -> str:
    """The figure that validation chooses by."""
    return _CHOSEN.get(protocol, "ndcg@10")


def special_moment(config: SplitConfig) -> str:
    """The moment of requests where it can be chosen and is not the protocol's own; else nothing."""
    usual: str = SplitConfig.model_fields["moment"].default
    return "" if config.protocol != "leave-one-out" or config.moment == usual else config.moment


def measured_group(plan: Plan, kind: TargetKind, targets: Targets) -> tuple[str, NDArray[np.bool_]]:
    """Whose figures stand in the table, and which requests those are: as the published tables have it.

    `all` and `successive` of a split in time: users with events before the cut-off. Everything else: everybody.
    """
    if plan.split is not None and kind != "last":
        return WARM, targets.warm
    return "all users", np.ones(len(targets), np.bool_)
