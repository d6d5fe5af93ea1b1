"""Content: items similar to the user's past ones by genres, tags, people and text, including items without events."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recall_server.channels.evidence import ValueScale, history_weights
from recall_server.channels.files import check_items, map_array, read_facts
from recall_server.channels.linear import LinearChannel
from recall_server.channels.nearest import ItemIndex, open_index
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import History

FACTS_FILE = "content/facts.json"
VECTORS_FILE = "content/item_vectors.npy"
FILES = (FACTS_FILE, VECTORS_FILE)


class ContentFacts(BaseModel):
    """Facts about the vectors, and how a history becomes a profile."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: int = Field(ge=0, description="rows of the vectors, equal to those of the catalogue")
    dim: int = Field(ge=1, description="length of a vector")
    value_scale: ValueScale
    half_life_days: float | None = Field(gt=0, description="a past event loses half its weight in this time")


class ContentChannel(LinearChannel):
    """Scores an item by the mean similarity of its description to those of the past items, weighted by evidence.

    Vectors have length 1, so a score is a mean cosine, within [-1, 1].
    """

    name: ClassVar[str] = "content"
    history_limit: ClassVar[int | None] = None

    def __init__(
        self, catalogue: Catalogue, facts: ContentFacts, vectors: NDArray[np.float32], index: ItemIndex | None = None
    ) -> None:
        """`vectors`: float32[items, dim] by catalogue row, of length 1; 0 for an item without a description."""
        super().__init__(catalogue, vectors, index)
        self.facts = facts

    @classmethod
    def open(cls, folder: Path, *, exact: bool = False) -> Self:
        """Maps what `offline.recall.content` wrote below `folder`; with `exact` without its index.

        Raises BundleDamaged or BundleMismatch.
        """
        catalogue, facts = Catalogue.load(folder), read_facts(folder / FACTS_FILE, ContentFacts)
        check_items(folder / FACTS_FILE, facts.items, len(catalogue))
        shape = (facts.items, facts.dim)
        vectors = map_array(folder / VECTORS_FILE, shape, np.dtype(np.float32), facts=FACTS_FILE)
        return cls(catalogue, facts, vectors, None if exact else open_index(folder, cls.name, vectors))

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Loads the channel from a verified bundle."""
        for file in FILES:
            bundle.path(file)
        return cls.open(bundle.folder)

    def influence(self, history: History) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The vector of each past item, weighted by its share of the evidence."""
        rows, weights = history_weights(history, self.catalogue, self.facts.value_scale, self.facts.half_life_days)
        counts = (weights > 0) & ~self.unknown[rows]
        rows, weights = rows[counts], weights[counts]
        shares = weights / (weights.sum() or 1)
        return rows, np.ascontiguousarray((self.vectors[rows] * shares[:, None]).T)
