"""ALS: item factors learned offline; users are folded in from their histories, so that an event counts at once."""

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

FACTS_FILE = "als/facts.json"
FACTORS_FILE = "als/item_factors.npy"
GRAM_FILE = "als/gram.npy"
FILES = (FACTS_FILE, FACTORS_FILE, GRAM_FILE)


class ALSFacts(BaseModel):
    """Facts about the factors, and how a history becomes confidences."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: int = Field(ge=0, description="rows of the factors, equal to those of the catalogue")
    factors: int = Field(ge=1, description="length of a factor vector")
    confidence: float = Field(gt=0, description="confidence of an event that counts in full; an unseen item has 1")
    value_scale: ValueScale
    half_life_days: float | None = Field(gt=0, description="a past event loses half its weight in this time")


class ALSChannel(LinearChannel):
    """Scores an item by the inner product of its factors with those of the user, who is solved for at request time.

    With Y the item factors, C the confidence of the past items and p = 1 for them, the user's factors are
    (Y'Y + Y'(C - I)Y + reg I)^-1 Y'Cp (Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback
    Datasets", ICDM 2008, equation 4): a sum over past items, from which section 5 of the paper explains answers.
    """

    name: ClassVar[str] = "als"
    history_limit: ClassVar[int | None] = None

    def __init__(
        self,
        catalogue: Catalogue,
        facts: ALSFacts,
        *,
        factors: NDArray[np.float32],
        gram: NDArray[np.float64],
        index: ItemIndex | None = None,
    ) -> None:
        """`factors`: float32[items, f], 0 for an item without events; `gram`: float64[f, f], Y'Y + reg I."""
        super().__init__(catalogue, factors, index)
        self.facts = facts
        self._gram = gram

    @classmethod
    def open(cls, folder: Path, *, exact: bool = False) -> Self:
        """Maps what `offline.recall.als` wrote below `folder`; with `exact` without its index.

        Raises BundleDamaged or BundleMismatch.
        """
        catalogue, facts = Catalogue.load(folder), read_facts(folder / FACTS_FILE, ALSFacts)
        check_items(folder / FACTS_FILE, facts.items, len(catalogue))
        size = facts.factors
        factors = map_array(folder / FACTORS_FILE, (facts.items, size), np.dtype(np.float32), facts=FACTS_FILE)
        gram = map_array(folder / GRAM_FILE, (size, size), np.dtype(np.float64), facts=FACTS_FILE)
        index = None if exact else open_index(folder, cls.name, factors)
        return cls(catalogue, facts, factors=factors, gram=gram, index=index)

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Loads the channel from a verified bundle."""
        for file in FILES:
            bundle.path(file)
        return cls.open(bundle.folder)

    def influence(self, history: History) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One column of (Y'Y + Y'(C - I)Y + reg I)^-1 Y'C per past item; one without weight counts as unseen."""
        rows, weights = history_weights(history, self.catalogue, self.facts.value_scale, self.facts.half_life_days)
        counts = (weights > 0) & ~self.unknown[rows]
        rows = rows[counts]
        confidence = self.facts.confidence * weights[counts].astype(np.float64)
        taken = self.vectors[rows].astype(np.float64)
        equations = self._gram + (taken * (confidence - 1)[:, None]).T @ taken
        solution = np.linalg.solve(equations, (taken * confidence[:, None]).T)
        return rows, np.asarray(solution, np.float32)
