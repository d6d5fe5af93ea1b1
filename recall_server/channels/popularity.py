"""Popularity: what most users have consumed recently, for new and for returning users, and within preferred genres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recall_server.channels.base import Channel
from recall_server.channels.files import read_facts
from recsys.allowed import Allowed, RowOrder, first_allowed
from recsys.arrays import open_array
from recsys.bundle import Bundle
from recsys.cache import ByteLimitedCache
from recsys.catalogue import Catalogue
from recsys.domain import RecallQuery, RecallResult, Scores
from recsys.errors import BundleMismatch
from recsys.ordering import order_by_score, top_k

SCORES_FILE = "popularity/scores.npy"
GENRE_SCALES_FILE = "popularity/genre_scales.npy"
RETURNING_SCORES_FILE = "popularity/returning_scores.npy"
RETURNING_FACTS_FILE = "popularity/returning.json"
"""Absent if returning users get the same list as new users."""


HEAD_ROWS = 4_096
"""Rows that are kept of the order of each choice of preferred genres."""
HEAD_BYTES = 16 << 20
"""Most memory that these take."""


class ReturningFacts(BaseModel):
    """Who gets the list of returning users."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after_hours: float = Field(ge=0, description="hours from a user's first event until they count as returning")


@dataclass(frozen=True)
class PopularityScores:
    """One score per item, and what follows from it."""

    scores: Scores
    """float32[items] within [0, 1]."""
    genre_scales: Scores
    """float32[genres]: the best score in each genre."""
    item_ids: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Scores, catalogue: Catalogue) -> Self:
        """Computes what follows from `scores`, float32[items]."""
        scales = np.where(catalogue.genres, scores[:, None], 0).max(axis=0, initial=0)
        return cls(scores, scales.astype(np.float32), catalogue.item_ids)

    @cached_property
    def order(self) -> RowOrder:
        """Catalogue rows, most popular first."""
        return RowOrder(order_by_score(self.scores, self.item_ids), len(self.item_ids))


@dataclass(frozen=True, slots=True)
class _Head:
    """The first items of an order, best first."""

    rows: NDArray[np.int64]
    scores: Scores

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.rows.nbytes + self.scores.nbytes


class PopularityChannel(Channel):
    """Ranks by one score per item.

    A user whose first event is more than `after_hours` old gets the list of returning users, if there is one: new users
    begin with what everybody knows, and move on to other items later.

    `preferred_genres` come first: an item of them scores 2 plus the mean, over the preferred genres, of its share of
    the genre's best score, so that a large genre does not dominate a small one; all other items follow in the global
    order with their scores, which are at most 1, so `count` is still met.
    """

    name: ClassVar[str] = "popularity"
    history_limit: ClassVar[int | None] = None

    def __init__(
        self,
        catalogue: Catalogue,
        everybody: PopularityScores,
        *,
        returning: PopularityScores | None = None,
        after_hours: float = 0,
    ) -> None:
        """`returning`: for users whose first event is more than `after_hours` old; None: `everybody` for all."""
        self.catalogue = catalogue
        self._everybody = everybody
        self._returning = returning
        self._after_seconds = after_hours * 3_600
        self._heads: ByteLimitedCache[tuple[bool, tuple[int, ...]], _Head] = ByteLimitedCache(
            HEAD_BYTES, lambda head: head.nbytes
        )
        for popularity in (everybody, returning):
            if popularity is not None:
                popularity.order  # noqa: B018 - computed once, before the first request

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the catalogue and what `offline.recall.popularity` wrote below `folder`; raises BundleMismatch."""
        catalogue = Catalogue.load(folder)
        scores = _read(folder / SCORES_FILE, len(catalogue))
        scales = _read(folder / GENRE_SCALES_FILE, len(catalogue.genre_names))
        everybody = PopularityScores(scores, scales, catalogue.item_ids)
        if not (folder / RETURNING_FACTS_FILE).is_file():
            return cls(catalogue, everybody)
        after_hours = read_facts(folder / RETURNING_FACTS_FILE, ReturningFacts).after_hours
        returning = PopularityScores.of(_read(folder / RETURNING_SCORES_FILE, len(catalogue)), catalogue)
        return cls(catalogue, everybody, returning=returning, after_hours=after_hours)

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Loads the channel from a verified bundle."""
        for file in (SCORES_FILE, GENRE_SCALES_FILE):
            bundle.path(file)
        return cls.open(bundle.folder)

    def search(self, queries: Sequence[RecallQuery], allowed: Sequence[Allowed]) -> list[RecallResult]:
        """The head of the order, or of the order of the preferred genres."""
        return [self._search(query, own) for query, own in zip(queries, allowed, strict=True)]

    def _search(self, query: RecallQuery, allowed: Allowed) -> RecallResult:
        popularity = self._scores_for(query)
        if query.preferred_genres:
            columns = self.catalogue.check_genres(tuple(dict.fromkeys(query.preferred_genres)), "preferred_genres")
            return self._preferred(popularity, tuple(columns), allowed, query.count)
        rows = popularity.order.rows[popularity.order.first(allowed, query.count)]
        return RecallResult(self.catalogue.item_ids[rows], popularity.scores[rows])

    def _preferred(
        self, popularity: PopularityScores, columns: tuple[int, ...], allowed: Allowed, count: int
    ) -> RecallResult:
        """The first items of a user who prefers the genres at `columns`."""
        head = self._heads.get(
            (popularity is self._returning, columns),
            lambda: self._head(popularity, columns, np.arange(len(self.catalogue)), HEAD_ROWS),
        )
        best = first_allowed(head.rows, allowed, count)
        # Where the head has too few, all that are allowed are ordered, unless the head is the whole order.
        if len(best) < count and len(head.rows) < len(self.catalogue):
            head = self._head(popularity, columns, allowed.rows(), count)
            best = np.arange(len(head.rows))
        return RecallResult(self.catalogue.item_ids[head.rows[best]], head.scores[best])

    def _scores_for(self, query: RecallQuery) -> PopularityScores:
        """Those of new or of returning users; events of items that the catalogue does not know are ignored."""
        if self._returning is None:
            return self._everybody
        known = self.catalogue.rows(query.history.item_ids) >= 0
        if not known.any():
            return self._everybody
        tenure = query.as_of - int(query.history.timestamps[known][0])
        return self._returning if tenure > self._after_seconds else self._everybody

    def _head(
        self, popularity: PopularityScores, columns: tuple[int, ...], rows: NDArray[np.int64], count: int
    ) -> _Head:
        """The best `count` of `rows`, ascending, for a user who prefers the genres at `columns`."""
        members = self.catalogue.genres[rows][:, columns]
        scales = popularity.genre_scales[list(columns)]
        per_genre = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
        shares = popularity.scores[rows] * (members @ per_genre) / np.float32(len(columns))
        scores = np.where(members.any(axis=1), 2 + shares, popularity.scores[rows]).astype(np.float32)
        best = top_k(scores, count)
        return _Head(rows[best], scores[best])


def _read(path: Path, expected: int) -> Scores:
    found: Scores = open_array(path)
    if found.shape != (expected,) or found.dtype != np.float32 or not np.isfinite(found).all():
        raise BundleMismatch(
            f"{path}: {found.dtype}{list(found.shape)}, expected finite float32[{expected}] to fit the catalogue; "
            "train and publish again"
        )
    return found
