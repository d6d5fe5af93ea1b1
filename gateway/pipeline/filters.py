"""The final check of what may be shown. Channels mask before their top-k; here every removed item has one reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.catalogue import Catalogue
from recsys.domain import Candidates, Ids, ItemFilter, Mask
from recsys.ordering import are_among


@dataclass(frozen=True, slots=True)
class Filtered:
    """What a filter kept, and what it removed by reason. Kept and removed items together are the input."""

    kept: Candidates
    item_ids: Ids
    """int64[n]: the input."""
    verdicts: dict[str, Mask]
    """By reason, bool[n]: the items to which it applies."""

    @property
    def removed(self) -> dict[str, Ids]:
        """The ids that were removed, each under the first reason that applies to it."""
        left, removed = np.ones(len(self.item_ids), np.bool_), {}
        for reason, verdict in self.verdicts.items():
            if (own := verdict & left).any():
                removed[reason] = self.item_ids[own]
            left &= ~verdict
        return removed


def apply_filters(
    candidates: Candidates, catalogue: Catalogue, *, forbidden_ids: Ids, hidden_ids: Ids, item_filter: ItemFilter
) -> Filtered:
    """Removes unknown, hidden, seen or excluded, and non-matching items; the first reason that applies counts."""
    ids = candidates.item_ids
    rows = catalogue.rows(ids)
    verdicts: dict[str, Mask] = {
        "unknown": rows < 0,
        "hidden": are_among(ids, hidden_ids),
        "seen_or_excluded": are_among(ids, forbidden_ids),
    }
    if item_filter:
        verdicts["attributes"] = ~catalogue.passes(item_filter, rows)
    dropped: Mask = np.logical_or.reduce(list(verdicts.values()))
    return Filtered(candidates.take(~dropped) if dropped.any() else candidates, ids, verdicts)
