"""ItemCF: items that the user's own past items point to, by item-item weights learned offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recall_server.channels.base import Channel
from recall_server.channels.evidence import ValueScale, history_weights
from recall_server.channels.files import check_items, map_array, read_facts
from recall_server.channels.links import make_links
from recsys.allowed import Allowed
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import History, RecallQuery, RecallResult, Scores

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
        self._links = make_links(neighbours, weights)

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
        """Sums the links of each history, and names the strongest past item of each candidate."""
        return [self._search(query, own) for query, own in zip(queries, allowed, strict=True)]

    def _search(self, query: RecallQuery, allowed: Allowed) -> RecallResult:
        past, weights = self.history_weights(query.history)
        passing = None if allowed.passing is None else allowed.passing.mask.view(np.uint8)
        rows, scores, seeds = self._links.best(past, weights, query.count, excluded=allowed.excluded, passing=passing)
        ids = self.catalogue.item_ids
        return RecallResult(ids[rows], scores, ids[past[seeds]], np.ones(len(rows), np.bool_))

    def history_weights(self, history: History) -> tuple[NDArray[np.int64], Scores]:
        """Distinct known rows of a history in ascending order, and the weight of each; see `evidence`."""
        return history_weights(history, self.catalogue, self.facts.value_scale, self.facts.half_life_days)
