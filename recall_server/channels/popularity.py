"""Popularity: what most people take lately, and for a user who names genres, what most people take of those."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recall_server.channels.base import Channel
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import Mask, RecallQuery, RecallResult, Scores
from recsys.errors import BundleMismatch
from recsys.ordering import order_by_score, top_k

SCORES_FILE = "popularity/scores.npy"
GENRE_SCALES_FILE = "popularity/genre_scales.npy"


class PopularityChannel(Channel):
    """Ranks by one score per item.

    `preferred_genres` come first: an item of them scores 2 plus the mean, over the preferred genres, of its share of
    the genre's best score, so that a small genre is not drowned by a big one; all other items follow in the global
    order with their scores, which are at most 1, so `count` is still met.
    """

    name: ClassVar[str] = "popularity"
    history_limit: ClassVar[int | None] = 0

    def __init__(self, catalogue: Catalogue, scores: Scores, genre_scales: Scores) -> None:
        """`scores`: float32[items] within [0, 1]; `genre_scales`: float32[genres], the best score in each genre."""
        self.catalogue = catalogue
        self._scores = scores
        self._genre_scales = genre_scales
        self._order = order_by_score(scores, catalogue.item_ids)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the catalogue and what `offline.popularity` wrote below `folder`; raises BundleMismatch."""
        catalogue = Catalogue.load(folder)
        scores = np.load(folder / SCORES_FILE, allow_pickle=False)
        genre_scales = np.load(folder / GENRE_SCALES_FILE, allow_pickle=False)
        for file, found, expected in (
            (SCORES_FILE, scores, len(catalogue)),
            (GENRE_SCALES_FILE, genre_scales, len(catalogue.genre_names)),
        ):
            if found.shape != (expected,) or found.dtype != np.float32 or not np.isfinite(found).all():
                raise BundleMismatch(
                    f"{folder / file}: {found.dtype}{list(found.shape)}, expected finite float32[{expected}] "
                    "to fit the catalogue; train and publish again"
                )
        return cls(catalogue, scores, genre_scales)

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
        if query.preferred_genres:
            scores = self._preferring(query.preferred_genres)
            rows = top_k(scores if mask is None else np.where(mask, scores, np.float32(-np.inf)), query.count)
        else:
            scores = self._scores
            rows = (self._order if mask is None else self._order[mask[self._order]])[: query.count]
        return RecallResult(self.catalogue.item_ids[rows], scores[rows])

    def _preferring(self, genres: tuple[str, ...]) -> NDArray[np.float32]:
        """float32[items]: the scores of a user who prefers `genres`."""
        columns = self.catalogue.check_genres(tuple(dict.fromkeys(genres)), "preferred_genres")
        members = self.catalogue.genres[:, columns]
        scales = self._genre_scales[columns]
        per_genre = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
        shares = self._scores * (members @ per_genre) / np.float32(len(columns))
        return np.where(members.any(axis=1), 2 + shares, self._scores).astype(np.float32)
