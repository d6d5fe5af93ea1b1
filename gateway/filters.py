"""The last word on what may be shown. Channels mask before their top-k; here every drop is counted with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.catalogue import Catalogue
from recsys.domain import Candidates, Ids, ItemFilter, Mask
from recsys.ordering import are_among


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a filter kept, and what it removed by reason. Kept and removed together are what went in."""

    kept: Candidates
    removed: dict[str, Ids]


def apply_filters(
    candidates: Candidates, catalogue: Catalogue, *, forbidden_ids: Ids, hidden_ids: Ids, item_filter: ItemFilter
) -> Filtered:
    """Removes unknown, seen or excluded, hidden, and not matching items; the first reason that applies counts."""
    rows = catalogue.rows(candidates.item_ids)
    allowed = catalogue.allowed(item_filter, np.empty(0, np.int64))
    verdicts: dict[str, Mask] = {
        "unknown": rows < 0,
        "hidden": are_among(candidates.item_ids, hidden_ids),
        "seen_or_excluded": are_among(candidates.item_ids, forbidden_ids),
        "attributes": np.zeros(len(rows), np.bool_) if allowed is None else ~allowed[rows],
    }
    dropped = np.zeros(len(rows), np.bool_)
    removed: dict[str, Ids] = {}
    for reason, verdict in verdicts.items():
        first = verdict & ~dropped
        if first.any():
            removed[reason] = candidates.item_ids[first]
        dropped |= verdict
    return Filtered(candidates.take(~dropped) if dropped.any() else candidates, removed)
