"""The arrays of one bundle, and the feature matrix of a query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.catalogue import Catalogue
from recsys.domain import Ids, RankQuery
from recsys.errors import BundleMismatch, InvalidRequest
from recsys.features.crosses import CROSS_NAMES, crosses, evidence, evidence_names
from recsys.features.items import ITEM_NAMES, ItemEvents, item_matrix
from recsys.features.user import USER_NAMES, ItemTraits, taste_of

MATRIX_FILE = "rank/features/items.npy"
FACTS_FILE = "rank/features/facts.json"


@dataclass(frozen=True)
class FeatureStore:
    """Item features at the cut-off, and everything needed to complete them for one query."""

    catalogue: Catalogue
    items: NDArray[np.float32]
    """float32[items, len(ITEM_NAMES)] by catalogue row."""
    channels: tuple[str, ...]
    """Channels whose evidence has columns, in order."""

    @classmethod
    def build(cls, catalogue: Catalogue, events: ItemEvents, *, cutoff: int, channels: Sequence[str]) -> FeatureStore:
        """Computes the arrays from events up to `cutoff`."""
        return cls(catalogue, item_matrix(catalogue, events, cutoff), tuple(channels))

    def save(self, folder: Path) -> None:
        """Writes `MATRIX_FILE` and `FACTS_FILE` below `folder`; the catalogue is saved by itself."""
        (folder / MATRIX_FILE).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / MATRIX_FILE, self.items)
        facts = {"channels": self.channels, "feature_names": self.feature_names}
        (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Reads what `save` wrote, and the catalogue beside it.

        Raises BundleMismatch where the files were written by software with other features.
        """
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        items = np.load(folder / MATRIX_FILE, allow_pickle=False)
        store = cls(Catalogue.load(folder), items, tuple(facts["channels"]))
        check_feature_names(str(folder / FACTS_FILE), tuple(facts["feature_names"]), store.feature_names)
        expected = (len(store.catalogue), len(ITEM_NAMES))
        if items.shape != expected:
            raise BundleMismatch(f"{folder / MATRIX_FILE}: shape {items.shape}, expected {expected}; publish again")
        return store

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of `features`, in order."""
        return (*ITEM_NAMES, *USER_NAMES, *CROSS_NAMES, *evidence_names(self.channels))

    @cached_property
    def traits(self) -> ItemTraits:
        """What tastes are made of, per item."""
        columns = {name: self.items[:, column] for column, name in enumerate(ITEM_NAMES)}
        return ItemTraits.of(
            self.catalogue.genres,
            columns["item_year"],
            popularity=columns["item_percentile_all"],
            ratings=columns["item_mean_rating"],
        )

    def features(self, query: RankQuery) -> NDArray[np.float32]:
        """float32[n, len(feature_names)]: one row per candidate, in their order; every value is finite.

        Unknown items of the history are ignored. Raises InvalidRequest for an unknown candidate or genre.
        """
        rows = candidate_rows(self.catalogue, query.candidates.item_ids)
        history_rows = self.catalogue.rows(query.history.item_ids)
        known = history_rows >= 0
        history = query.history if known.all() else query.history.take(known)
        preferred = self.catalogue.check_genres(query.preferred_genres, "preferred_genres")
        taste = taste_of(history_rows[known], history, self.traits, as_of=query.as_of, preferred=preferred)
        items, user = len(ITEM_NAMES), len(ITEM_NAMES) + len(USER_NAMES)
        result = np.empty((len(rows), len(self.feature_names)), np.float32)
        result[:, :items] = self.items[rows]
        result[:, items:user] = taste.numbers
        result[:, user : user + len(CROSS_NAMES)] = crosses(rows, self.traits, taste)
        result[:, user + len(CROSS_NAMES) :] = evidence(query.candidates, self.channels)
        return result


def candidate_rows(catalogue: Catalogue, item_ids: Ids) -> NDArray[np.int64]:
    """Catalogue rows of candidates; raises InvalidRequest that names one that is unknown."""
    rows = catalogue.rows(item_ids)
    if len(rows) and rows.min() < 0:
        unknown = int(item_ids[int(np.argmin(rows))])
        raise InvalidRequest(f"item_ids: {unknown} is not in this bundle's catalogue of {len(catalogue)} items")
    return rows


def check_feature_names(where: str, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Raises BundleMismatch, naming the first difference, unless both are equal."""
    if found == expected:
        return
    place = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    if place is None:
        detail = f"{len(found)} features"
        wanted = f"{len(expected)}"
    else:
        detail, wanted = f"feature {place} is {found[place]!r}", f"{expected[place]!r}"
    raise BundleMismatch(f"{where}: {detail}, this software computes {wanted}; train and publish again")
