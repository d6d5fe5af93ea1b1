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
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import Mask, RecallQuery, RecallResult, Scores
from recsys.errors import BundleMismatch
from recsys.ordering import order_by_score, top_k

SCORES_FILE = "popularity/scores.npy"
GENRE_SCALES_FILE = "popularity/genre_scales.npy"
RETURNING_SCORES_FILE = "popularity/returning_scores.npy"
RETURNING_FACTS_FILE = "popularity/returning.json"
"""Absent if returning users get the same list as new users."""


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
    def order(self) -> NDArray[np.int64]:
        """int64[items]: catalogue rows, most popular first."""
        return order_by_score(self.scores, self.item_ids)


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

    def search(self, queries: Sequence[RecallQuery], allowed: Sequence[Mask | None]) -> list[RecallResult]:
        """The head of the order, or of the order of the preferred genres."""
        return [self._search(query, mask) for query, mask in zip(queries, allowed, strict=True)]

    def _search(self, query: RecallQuery, mask: Mask | None) -> RecallResult:
        popularity = self._scores_for(query)
        if query.preferred_genres:
            scores = self._preferring(popularity, query.preferred_genres)
            rows = top_k(scores if mask is None else np.where(mask, scores, np.float32(-np.inf)), query.count)
        else:
            scores = popularity.scores
            rows = (popularity.order if mask is None else popularity.order[mask[popularity.order]])[: query.count]
        return RecallResult(self.catalogue.item_ids[rows], scores[rows])

    def _scores_for(self, query: RecallQuery) -> PopularityScores:
        """Those of new or of returning users; events of items that the catalogue does not know are ignored."""
        if self._returning is None:
            return self._everybody
        known = self.catalogue.rows(query.history.item_ids) >= 0
        if not known.any():
            return self._everybody
        tenure = query.as_of - int(query.history.timestamps[known][0])
        return self._returning if tenure > self._after_seconds else self._everybody

    def _preferring(self, popularity: PopularityScores, genres: tuple[str, ...]) -> NDArray[np.float32]:
        """float32[items]: the scores of a user who prefers `genres`."""
        columns = self.catalogue.check_genres(tuple(dict.fromkeys(genres)), "preferred_genres")
        members = self.catalogue.genres[:, columns]
        scales = popularity.genre_scales[columns]
        per_genre = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
        shares = popularity.scores * (members @ per_genre) / np.float32(len(columns))
        return np.where(members.any(axis=1), 2 + shares, popularity.scores).astype(np.float32)


def _read(path: Path, expected: int) -> Scores:
    found: Scores = np.load(path, allow_pickle=False)
    if found.shape != (expected,) or found.dtype != np.float32 or not np.isfinite(found).all():
        raise BundleMismatch(
            f"{path}: {found.dtype}{list(found.shape)}, expected finite float32[{expected}] to fit the catalogue; "
            "train and publish again"
        )
    return found
