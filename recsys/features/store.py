"""The arrays of one bundle, and the feature matrix of a query."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from recsys.arrays import open_array
from recsys.catalogue import Catalogue
from recsys.domain import Floats32, RankQuery
from recsys.errors import BundleMismatch
from recsys.features.credits import PeopleCrosses
from recsys.features.events import ItemEvents
from recsys.features.item_statistics import STAGES, ItemStatistics
from recsys.features.items import ITEM_NAMES, item_matrix
from recsys.features.rating import RatingModel
from recsys.features.reference import ReferenceFeatures
from recsys.features.selection import RATING_NAME, Selection, feature_groups
from recsys.features.user import ItemTraits
from recsys.features.vectors import item_vectors
from recsys.kernels import COMPILED

MATRIX_FILE = "rank/features/items.npy"
STAGES_FILE = "rank/features/stages.npy"
VECTORS_FILE = "rank/features/vectors.npy"
FACTS_FILE = "rank/features/facts.json"

Computation = Callable[[Sequence[RankQuery]], Floats32]
"""Features of a batch, for one choice of columns."""


@dataclass(frozen=True)
class FeatureStore:
    """What was known of items at the cut-off, and everything needed to complete it for one query."""

    catalogue: Catalogue
    items: Floats32
    """float32[items, len(ITEM_NAMES)] by catalogue row."""
    stages: Floats32
    """float32[items, len(STAGES)]: see `ItemStatistics.stages`."""
    vectors: Floats32
    """float32[items, d]: see `item_vectors`."""
    channels: tuple[str, ...]
    """Channels whose evidence has columns, in order."""
    rating: RatingModel | None = None
    """Adds the column `RATING_NAME`."""

    @classmethod
    def build(
        cls,
        catalogue: Catalogue,
        events: ItemEvents,
        *,
        cutoff: int,
        channels: Sequence[str],
        rating: RatingModel | None = None,
    ) -> FeatureStore:
        """Computes the arrays from events up to `cutoff`."""
        statistics = ItemStatistics.of(events, len(catalogue), cutoff)
        items = item_matrix(catalogue, events, statistics)
        return cls(catalogue, items, statistics.stages(), item_vectors(events, len(catalogue)), tuple(channels), rating)

    def save(self, folder: Path) -> None:
        """Writes the arrays and `FACTS_FILE` below `folder`, and the rating model; the catalogue is saved by itself."""
        (folder / MATRIX_FILE).parent.mkdir(parents=True, exist_ok=True)
        for name, array in ((MATRIX_FILE, self.items), (STAGES_FILE, self.stages), (VECTORS_FILE, self.vectors)):
            np.save(folder / name, array)
        facts = {"channels": self.channels, "feature_names": self.feature_names}
        (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if self.rating is not None:
            self.rating.save(folder)

    @classmethod
    def open(cls, folder: Path, catalogue: Catalogue | None = None) -> FeatureStore:
        """Maps what `save` wrote, and the catalogue next to it where none is given.

        Raises BundleMismatch where the files were written by software with other features.
        """
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        names = tuple(facts["feature_names"])
        rating = RatingModel.open(folder) if RATING_NAME in names else None
        channels = tuple(facts["channels"])
        catalogue = Catalogue.load(folder) if catalogue is None else catalogue
        groups = feature_groups(channels, rated=rating is not None)
        check_feature_names(str(folder / FACTS_FILE), names, tuple(name for group in groups.values() for name in group))
        items = _array(folder / MATRIX_FILE, len(catalogue), len(ITEM_NAMES))
        stages = _array(folder / STAGES_FILE, len(catalogue), len(STAGES))
        return cls(catalogue, items, stages, _array(folder / VECTORS_FILE, len(catalogue), None), channels, rating)

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Names of features by group, in order: see `feature_groups`."""
        return feature_groups(self.channels, rated=self.rating is not None)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of `features`, in order."""
        return tuple(name for names in self.groups.values() for name in names)

    def item_column(self, name: str) -> Floats32:
        """float32[items]: the column of `items` with this name."""
        return self.items[:, ITEM_NAMES.index(name)]

    @cached_property
    def traits(self) -> ItemTraits:
        """What user profiles are made of, per item."""
        return ItemTraits.of(
            self.catalogue.genres,
            self.item_column("item_year"),
            popularity=self.item_column("item_percentile_all"),
            ratings=self.item_column("item_mean_rating"),
            days_since_first=self.item_column("item_days_since_first"),
        )

    @cached_property
    def credits(self) -> PeopleCrosses | None:
        """Who made the items; None where the catalogue names nobody."""
        return None if self.catalogue.people is None else PeopleCrosses.of(self.catalogue.people)

    def features(self, query: RankQuery) -> Floats32:
        """float32[n, len(feature_names)]: one row per candidate, in their order; every value is finite.

        Unknown items of the history are ignored. Raises InvalidRequest for an unknown candidate or genre.
        """
        return self.features_of([query])

    def features_of(self, queries: Sequence[RankQuery], columns: tuple[int, ...] | None = None) -> Floats32:
        """The features of a batch: candidates of one query after those of another, computed query by query.

        `columns`: which features, by position in `feature_names`, and in which order; None: all. What is not chosen is
        not computed, and no value depends on what else is chosen or on the other queries.
        """
        if not queries:
            return np.empty((0, len(self.feature_names if columns is None else columns)), np.float32)
        compute = self._computations.get(columns)
        if compute is None:
            compute = self._computations[columns] = self._computation(columns)
        return compute(queries)

    @cached_property
    def _computations(self) -> dict[tuple[int, ...] | None, Computation]:
        return {}

    def _computation(self, columns: tuple[int, ...] | None) -> Computation:
        selection = Selection.of(self.groups, columns)
        if not COMPILED:
            return ReferenceFeatures(self, selection)
        from recsys.features.compiled import CompiledFeatures

        return CompiledFeatures(self, selection)


def check_feature_names(where: str, found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Raises BundleMismatch, naming the first difference, unless both are equal."""
    if found == expected:
        return
    position = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    if position is None:
        detail = f"{len(found)} features"
        wanted = f"{len(expected)}"
    else:
        detail, wanted = f"feature {position} is {found[position]!r}", f"{expected[position]!r}"
    raise BundleMismatch(f"{where}: {detail}, but this software computes {wanted}; train and publish again")


def _array(path: Path, n: int, columns: int | None) -> Floats32:
    """The array at `path`; raises BundleMismatch unless it is float32[n, columns]."""
    array: Floats32 = open_array(path)
    fits = array.ndim == 2 and len(array) == n and columns in (None, array.shape[1])
    if not fits or array.dtype != np.float32:
        expected = f"float32[{n}, {'any' if columns is None else columns}]"
        raise BundleMismatch(f"{path}: {array.dtype}{list(array.shape)}, expected {expected}; publish again")
    return array
