"""The gateway's own popularity list: served if no channel answers, and used to fill up short answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.allowed import RowOrder
from recsys.arrays import open_array
from recsys.catalogue import Catalogue
from recsys.domain import Ids, RecallQuery, RecallResult

FILE = "gateway/popular_item_ids.npy"


class Fallback:
    """Items of the catalogue, most popular first."""

    def __init__(self, catalogue: Catalogue, popular_item_ids: Ids) -> None:
        """`popular_item_ids`: int64[n], best first, ids of the catalogue."""
        self._catalogue = catalogue
        self._item_ids = popular_item_ids
        self._order = RowOrder(catalogue.rows(popular_item_ids), len(catalogue))

    @property
    def item_ids(self) -> Ids:
        """int64[n], most popular first."""
        return self._item_ids

    @classmethod
    def open(cls, folder: Path, catalogue: Catalogue) -> Fallback:
        """Maps `FILE` below `folder`."""
        return cls(catalogue, open_array(folder / FILE))

    def recall(self, query: RecallQuery) -> RecallResult:
        """The most popular `count` items that the query allows; the score is the reciprocal of the position."""
        allowed = self._catalogue.allowed(query.item_filter, query.exclude_item_ids)
        positions = self._order.first(allowed, query.count)
        return RecallResult(self._item_ids[positions], (1.0 / (1.0 + positions)).astype(np.float32))
