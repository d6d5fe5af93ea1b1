"""Whether two ways to the same lists agree: `evaluate` in one process, `replay` through five."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline.evaluation.evaluate import Lists
from offline.metrics.ranking import NO_ITEM, hits_of, per_request
from offline.protocols.targets import Targets
from recsys.errors import ContractBroken

TOP = 10


@dataclass(frozen=True, slots=True)
class Parity:
    """How alike two sets of lists are."""

    equal_entries: float
    """Share of the first ten positions, of all requests, that hold the same item."""
    equal_lists: float
    """Share of requests whose lists are the same over their whole length."""
    score_difference: float
    """Largest difference between the scores of positions that hold the same item."""
    ndcg_difference: float
    """Absolute difference of the mean NDCG@10 over all requests."""


def compare(first: Lists, second: Lists, targets: Targets) -> Parity:
    """Compares lists of the same targets, request by request.

    Raises ContractBroken where the numbers of requests differ.
    """
    if not len(first.item_ids) == len(second.item_ids) == len(targets):
        raise ContractBroken(
            f"{len(first.item_ids)} and {len(second.item_ids)} lists for {len(targets)} requests cannot be compared"
        )
    same = first.item_ids == second.item_ids
    filled = (first.item_ids != NO_ITEM) | (second.item_ids != NO_ITEM)
    top = filled[:, :TOP]
    differences = np.abs(first.scores.astype(np.float64) - second.scores)[same & filled]
    return Parity(
        float(same[:, :TOP][top].mean()) if top.any() else 1.0,
        float(same.all(axis=1).mean()) if len(same) else 1.0,
        float(differences.max(initial=0.0)),
        abs(_ndcg(first, targets) - _ndcg(second, targets)),
    )


def _ndcg(lists: Lists, targets: Targets) -> float:
    if not len(targets):
        return 0.0
    hits = hits_of(lists.item_ids, targets.relevant)
    return float(per_request(hits, targets.relevant.counts, cuts=(TOP,))[f"ndcg@{TOP}"].mean())
