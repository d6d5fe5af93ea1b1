"""ItemCF: items that the user's own past items point to, by item-item weights learned offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recall_server.channels.base import Channel
from recall_server.channels.evidence import ValueScale, history_weights
from recall_server.channels.files import check_items, map_array, read_facts
from recsys.allowed import Allowed
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import History, Mask, RecallQuery, RecallResult, Scores
from recsys.ordering import top_k

FACTS_FILE = "itemcf/facts.json"
NEIGHBOURS_FILE = "itemcf/neighbours.npy"
WEIGHTS_FILE = "itemcf/weights.npy"
FILES = (FACTS_FILE, NEIGHBOURS_FILE, WEIGHTS_FILE)


class ItemCFFacts(BaseModel):
    """Facts about the arrays, and how a history becomes weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: int = Field(ge=0, description="rows of the weight matrix, equal to those of the catalogue")
    neighbours: int = Field(ge=0, description="links per item; a row with fewer ends in links to `items` of weight 0")
    ease_items: int = Field(ge=0, description="items with EASE weights between each other; the others have cosines")
    value_scale: ValueScale
    half_life_days: float | None = Field(gt=0, description="a past event loses half its weight in this time")


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The links of one history's m distinct known items."""

    rows: NDArray[np.int64]
    """int64[m]: catalogue rows of the past items."""
    targets: NDArray[np.int32]
    """int32[m, k]: catalogue rows that they link to, each once; the row after the last is no item."""
    contributions: NDArray[np.float32]
    """float32[m, k]: weight of the past item times weight of the link; 0 is no link."""


class ItemCFChannel(Channel):
    """Scores an item by the sum of what each past item contributes to it.

    An item that no past item links to is no candidate, so an empty history has none. The score is the prediction of
    EASE (Steck 2019) with a weighted history, reduced to the strongest positive weights of each past item.
    """

    name: ClassVar[str] = "itemcf"
    history_limit: ClassVar[int | None] = None

    def __init__(
        self, catalogue: Catalogue, facts: ItemCFFacts, *, neighbours: NDArray[np.int32], weights: NDArray[np.float32]
    ) -> None:
        """`neighbours`: int32[items, k], rows that each item links to; `weights`: float32[items, k], above 0."""
        self.catalogue = catalogue
        self.facts = facts
        self._neighbours = neighbours
        self._weights = weights

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps what `offline.recall.itemcf.training` wrote below `folder`; raises BundleDamaged or BundleMismatch."""
        catalogue = Catalogue.load(folder)
        facts = read_facts(folder / FACTS_FILE, ItemCFFacts)
        check_items(folder / FACTS_FILE, facts.items, len(catalogue))
        shape = (facts.items, facts.neighbours)
        neighbours = map_array(folder / NEIGHBOURS_FILE, shape, np.dtype(np.int32), facts=FACTS_FILE)
        weights = map_array(folder / WEIGHTS_FILE, shape, np.dtype(np.float32), facts=FACTS_FILE)
        return cls(catalogue, facts, neighbours=neighbours, weights=weights)

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Loads the channel from a verified bundle."""
        for file in FILES:
            bundle.path(file)
        return cls.open(bundle.folder)

    def search(self, queries: Sequence[RecallQuery], allowed: Sequence[Allowed]) -> list[RecallResult]:
        """Sums the links of each history, masks, and names the strongest past item of each candidate."""
        return [self._search(query, own) for query, own in zip(queries, allowed, strict=True)]

    def _search(self, query: RecallQuery, allowed: Allowed) -> RecallResult:
        evidence = self._evidence(query.history)
        sums = np.bincount(
            evidence.targets.ravel(), weights=evidence.contributions.ravel(), minlength=len(self.catalogue) + 1
        )[:-1]
        scores = np.where(sums > 0, sums, -np.inf).astype(np.float32)
        allowed.forbid(scores, -np.inf)
        rows = top_k(scores, query.count)
        seeds, present = self._seeds(evidence, rows)
        return RecallResult(self.catalogue.item_ids[rows], scores[rows], seeds, present)

    def _evidence(self, history: History) -> _Evidence:
        rows, weights = self.history_weights(history)
        return _Evidence(rows, self._neighbours.take(rows, axis=0), self._weights.take(rows, axis=0) * weights[:, None])

    def history_weights(self, history: History) -> tuple[NDArray[np.int64], Scores]:
        """Distinct known rows of a history in ascending order, and the weight of each; see `evidence`."""
        return history_weights(history, self.catalogue, self.facts.value_scale, self.facts.half_life_days)

    def _seeds(self, evidence: _Evidence, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
        """For each candidate row the id of the past item that contributed most, and whether there is one."""
        n, n_past = len(rows), len(evidence.rows)
        if not n:
            return np.empty(0, np.int64), np.empty(0, np.bool_)
        # The table has one line per candidate, and a last line that collects all links to other items.
        line_of_row = np.full(len(self.catalogue) + 1, n, np.int64)
        line_of_row[rows] = np.arange(n)
        # The link from past item j to candidate i is cell (i, j), flat i * n_past + j: three times as fast as pairs.
        cells = line_of_row.take(evidence.targets)
        cells *= n_past
        cells += np.arange(n_past)[:, None]
        table = np.zeros((n + 1) * n_past, np.float32)
        table[cells.ravel()] = evidence.contributions.ravel()
        # The seed of a candidate is the past item with the largest contribution in its line.
        table = table.reshape(n + 1, n_past)[:n]
        best = table.argmax(axis=1)
        present = table[np.arange(n), best] > 0
        return np.where(present, self.catalogue.item_ids[evidence.rows[best]], 0), present
