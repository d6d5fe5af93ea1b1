"""Channels whose score is an inner product of item vectors with a sum over the user's past items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recall_server.channels.base import Channel
from recall_server.channels.nearest import ItemIndex, ItemSearch
from recsys.allowed import Allowed
from recsys.catalogue import Catalogue
from recsys.domain import History, Mask, RecallQuery, RecallResult

_NOTHING = RecallResult(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.bool_))


class LinearChannel(Channel):
    """Scores every item that has a vector. A subclass defines what each past item adds to the user's vector.

    So the score is a sum over past items as well, and the seed of a candidate is the one with the largest term. An
    item whose vector is 0 is no candidate, and a user whose past items are all unknown has no candidates.
    """

    def __init__(self, catalogue: Catalogue, vectors: NDArray[np.float32], index: ItemIndex | None = None) -> None:
        """`vectors`: float32[items, dim] by catalogue row; 0 for an item that the channel does not know.

        `index`: over the items that it knows; None: every search is exact.
        """
        self.catalogue = catalogue
        self.vectors = vectors
        self.unknown: Mask = np.asarray(~vectors.any(axis=1), np.bool_)
        self.nearest = ItemSearch(vectors, self.unknown, index)

    @abstractmethod
    def influence(self, history: History) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Distinct rows of the m past items that count, and float32[dim, m]: what each adds to the user's vector."""

    def user_vector(self, history: History) -> NDArray[np.float32]:
        """float32[dim]: the vector of a user with this history; 0 if no item in it is known."""
        _, influence = self.influence(history)
        return np.asarray(influence.sum(axis=1), np.float32)

    def search(self, queries: Sequence[RecallQuery], allowed: Sequence[Allowed]) -> list[RecallResult]:
        """Searches for all users at once, and names the strongest past item of each candidate."""
        influences = [self.influence(query.history) for query in queries]
        warm = [position for position, (past, _) in enumerate(influences) if len(past)]
        results = [_NOTHING] * len(queries)
        if warm:
            users = np.stack([np.asarray(influences[position][1].sum(axis=1), np.float32) for position in warm])
            counts = [queries[position].count for position in warm]
            found = self.nearest.best(users, counts, [allowed[position] for position in warm])
            for position, (rows, scores) in zip(warm, found, strict=True):
                seeds, present = self._seeds(rows, *influences[position])
                results[position] = RecallResult(self.catalogue.item_ids[rows], scores, seeds, present)
        return results

    def _seeds(
        self, rows: NDArray[np.int64], past: NDArray[np.int64], influence: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], Mask]:
        """For each candidate row the id of the past item that adds most to its score, and whether any adds to it."""
        terms = self.vectors[rows] @ influence
        best = terms.argmax(axis=1)
        present = np.asarray(terms[np.arange(len(rows)), best] > 0, np.bool_)
        return np.where(present, self.catalogue.item_ids[past[best]], 0), present
