"""ItemCF: items that the user's own past items point to, by item-item weights learnt offline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recall_server.channels.base import Channel
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import EVENT_WEIGHTS, History, Mask, RecallQuery, RecallResult, Scores
from recsys.errors import BundleDamaged, BundleMismatch
from recsys.ordering import top_k

FACTS_FILE = "itemcf/facts.json"
NEIGHBOURS_FILE = "itemcf/neighbours.npy"
WEIGHTS_FILE = "itemcf/weights.npy"
FILES = (FACTS_FILE, NEIGHBOURS_FILE, WEIGHTS_FILE)

SECONDS_PER_DAY = 86_400.0


class ValueScale(BaseModel):
    """How a rating becomes evidence: linear from `floor` at `low` to 1 at `high`, clipped; 1 where there is none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(description="value that counts `floor`", allow_inf_nan=False)
    high: float = Field(description="value that counts in full; equal to `low`: every value does", allow_inf_nan=False)
    floor: float = Field(ge=0, le=1, description="evidence of the lowest value")

    def evidence(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n]: the evidence of each value."""
        if self.high <= self.low:
            return np.ones(len(values), np.float32)
        share = np.clip((values - np.float32(self.low)) / np.float32(self.high - self.low), 0, 1)
        return np.where(np.isnan(share), np.float32(1), self.floor + (1 - self.floor) * share).astype(np.float32)


class ItemCFFacts(BaseModel):
    """What the arrays are, and how a history becomes weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: int = Field(ge=0, description="rows of the weight matrix, equal to those of the catalogue")
    neighbours: int = Field(ge=0, description="links per item; a row with fewer ends in links to `items` of weight 0")
    ease_items: int = Field(ge=0, description="items with EASE weights among each other; the others have cosine")
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
    EASE (Steck 2019) with a weighted history, cut to the strongest positive weights of each past item.
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
        """Maps what `offline.itemcf` wrote below `folder`; raises BundleDamaged or BundleMismatch."""
        catalogue = Catalogue.load(folder)
        facts = _read_facts(folder / FACTS_FILE)
        if facts.items != len(catalogue):
            raise BundleMismatch(
                f"{folder / FACTS_FILE}: {facts.items} items, the catalogue has {len(catalogue)}; "
                "train and publish again"
            )
        shape = (facts.items, facts.neighbours)
        neighbours = _map(folder / NEIGHBOURS_FILE, shape, np.dtype(np.int32))
        weights = _map(folder / WEIGHTS_FILE, shape, np.dtype(np.float32))
        return cls(catalogue, facts, neighbours=neighbours, weights=weights)

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Loads the channel from a verified bundle."""
        for file in FILES:
            bundle.path(file)
        return cls.open(bundle.folder)

    def search(self, queries: Sequence[RecallQuery], allowed: Sequence[Mask | None]) -> list[RecallResult]:
        """Sums the links of each history, masks, and names the strongest past item of each candidate."""
        return [self._search(query, mask) for query, mask in zip(queries, allowed, strict=True)]

    def _search(self, query: RecallQuery, mask: Mask | None) -> RecallResult:
        evidence = self._evidence(query.history)
        sums = np.bincount(
            evidence.targets.ravel(), weights=evidence.contributions.ravel(), minlength=len(self.catalogue) + 1
        )[:-1]
        candidate = sums > 0 if mask is None else (sums > 0) & mask
        scores = np.where(candidate, sums, -np.inf).astype(np.float32)
        rows = top_k(scores, query.count)
        seeds, present = self._seeds(evidence, rows)
        return RecallResult(self.catalogue.item_ids[rows], scores[rows], seeds, present)

    def _evidence(self, history: History) -> _Evidence:
        rows, weights = self.history_weights(history)
        return _Evidence(rows, self._neighbours[rows], self._weights[rows] * weights[:, None])

    def history_weights(self, history: History) -> tuple[NDArray[np.int64], Scores]:
        """Distinct known rows of a history in ascending order, and the weight of each.

        An event weighs its type, times the evidence of its value, times 2^(-age / half-life); several events of one
        item add up to 1 at most. Age counts from the user's latest known event: counting it from the request would
        only scale all scores, and would underflow for a user who comes back after years.
        """
        rows = self.catalogue.rows(history.item_ids)
        known = rows >= 0
        weights = EVENT_WEIGHTS[history.types[known]] * self.facts.value_scale.evidence(history.values[known])
        if self.facts.half_life_days is not None and known.any():
            times = history.timestamps[known]
            ages = (times.max() - times) / SECONDS_PER_DAY
            weights = weights * np.exp2(-ages / self.facts.half_life_days)
        distinct, inverse = np.unique(rows[known], return_inverse=True)
        summed = np.bincount(inverse, weights=weights, minlength=len(distinct))
        return distinct, np.minimum(summed, 1).astype(np.float32)

    def _seeds(self, evidence: _Evidence, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Mask]:
        """For each candidate row the id of the past item that contributed most, and whether there is one."""
        n, sources = len(rows), len(evidence.rows)
        if not n:
            return np.empty(0, np.int64), np.empty(0, np.bool_)
        # One line of the table per candidate, and a last one for all else. Flat indices: three times as fast as pairs.
        line = np.full(len(self.catalogue) + 1, n, np.int64)
        line[rows] = np.arange(n)
        places = line.take(evidence.targets)
        places *= sources
        places += np.arange(sources)[:, None]
        table = np.zeros((n + 1) * sources, np.float32)
        table[places.ravel()] = evidence.contributions.ravel()
        table = table.reshape(n + 1, sources)[:n]
        best = table.argmax(axis=1)
        present = table[np.arange(n), best] > 0
        return np.where(present, self.catalogue.item_ids[evidence.rows[best]], 0), present


def _map(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Maps an array without reading it; raises BundleMismatch where it is not what the facts say."""
    found = np.load(path, mmap_mode="r" if math.prod(shape) else None, allow_pickle=False)
    if found.shape != shape or found.dtype != dtype:
        raise BundleMismatch(
            f"{path}: {found.dtype}{list(found.shape)}, expected {dtype}{list(shape)} to fit {FACTS_FILE}; "
            "train and publish again"
        )
    return np.asarray(found)


def _read_facts(path: Path) -> ItemCFFacts:
    try:
        return ItemCFFacts.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleDamaged(f"{path}: {where}: {first['msg']}; train and publish again") from error
    except (UnicodeDecodeError, OSError) as error:
        raise BundleDamaged(f"{path}: unreadable ({error}); train and publish again") from error
