"""The arrays of one bundle, and the feature matrix of a query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.arrays import open_array
from recsys.catalogue import Catalogue
from recsys.domain import Floats32, Ids, RankQuery
from recsys.errors import BundleMismatch, InvalidRequest
from recsys.features.credits import PEOPLE_NAMES, PeopleCrosses
from recsys.features.crosses import CROSS_NAMES, crosses, evidence, evidence_names
from recsys.features.events import MISSING, ItemEvents
from recsys.features.item_statistics import STAGES, ItemStatistics
from recsys.features.items import ITEM_NAMES, item_matrix
from recsys.features.ranks import RANK_NAMES, RANKED_COLUMNS, within_request_ranks
from recsys.features.rating import RatingModel
from recsys.features.sessions import SESSION_NAMES, sessions_of
from recsys.features.similarity import SIMILARITY_NAMES, similarities
from recsys.features.user import USER_NAMES, ItemTraits, profile_of
from recsys.features.vectors import item_vectors

MATRIX_FILE = "rank/features/items.npy"
STAGES_FILE = "rank/features/stages.npy"
VECTORS_FILE = "rank/features/vectors.npy"
FACTS_FILE = "rank/features/facts.json"
RATING_NAME = "cross_svd_rating"


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
        expected = feature_names(channels, rated=rating is not None)
        check_feature_names(str(folder / FACTS_FILE), names, expected)
        items = _array(folder / MATRIX_FILE, len(catalogue), len(ITEM_NAMES))
        stages = _array(folder / STAGES_FILE, len(catalogue), len(STAGES))
        return cls(catalogue, items, stages, _array(folder / VECTORS_FILE, len(catalogue), None), channels, rating)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of `features`, in order."""
        return feature_names(self.channels, rated=self.rating is not None)

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

    def features(self, query: RankQuery) -> Floats32:
        """float32[n, len(feature_names)]: one row per candidate, in their order; every value is finite.

        Unknown items of the history are ignored. Raises InvalidRequest for an unknown candidate or genre.
        """
        rows = candidate_rows(self.catalogue, query.candidates.item_ids)
        history_rows = self.catalogue.rows(query.history.item_ids)
        known = history_rows >= 0
        history = query.history if known.all() else query.history.take(known)
        history_rows = history_rows[known]
        preferred = self.catalogue.check_genres(query.preferred_genres, "preferred_genres")
        profile = profile_of(history_rows, history, self.traits, as_of=query.as_of, preferred=preferred)
        sessions = sessions_of(history.timestamps, query.as_of)
        similar = similarities(
            self.vectors.take(rows, axis=0),
            self.vectors.take(history_rows, axis=0),
            profile,
            in_session=sessions.in_last,
        )
        blocks = [
            self.items.take(rows, axis=0),
            np.broadcast_to(np.concatenate([profile.numbers, sessions.numbers]), (len(rows), _USER_COLUMNS)),
            crosses(rows, self.traits, profile),
            self.stages[rows, profile.stage, None],
            similar,
            self._people(rows, history_rows, profile.deviations),
        ]
        if self.rating is not None:
            blocks.append(self.rating.predict(history_rows, history.values, rows)[:, None])
        found = np.concatenate(blocks, axis=1)
        among = within_request_ranks(found[:, self._ranked_columns])
        return np.concatenate([found, among, evidence(query.candidates, self.channels)], axis=1)

    def _people(self, rows: NDArray[np.int64], history_rows: NDArray[np.int64], deviations: Floats32) -> Floats32:
        if self._known_people is None:
            return np.full((len(rows), len(PEOPLE_NAMES)), MISSING, np.float32)
        return self._known_people.crosses(rows, history_rows, deviations)

    @cached_property
    def _known_people(self) -> PeopleCrosses | None:
        return None if self.catalogue.people is None else PeopleCrosses.of(self.catalogue.people)

    @cached_property
    def _ranked_columns(self) -> list[int]:
        """The positions of `RANKED_COLUMNS`."""
        return [self.feature_names.index(name) for name in RANKED_COLUMNS]


_USER_COLUMNS = len(USER_NAMES) + len(SESSION_NAMES)


def feature_names(channels: Sequence[str], *, rated: bool) -> tuple[str, ...]:
    """Columns of a store with evidence of `channels`, and with a rating model where `rated`."""
    return (
        *ITEM_NAMES,
        *USER_NAMES,
        *SESSION_NAMES,
        *CROSS_NAMES,
        "cross_stage_count",
        *SIMILARITY_NAMES,
        *PEOPLE_NAMES,
        *((RATING_NAME,) if rated else ()),
        *RANK_NAMES,
        *evidence_names(channels),
    )


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
    if array.ndim != 2 or len(array) != n or (columns is not None and array.shape[1] != columns):
        width = "any" if columns is None else columns
        raise BundleMismatch(f"{path}: shape {array.shape}, expected ({n}, {width}); publish again")
    return array
