"""The vectors of one bundle, and the spaces in which they are compared."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gateway.bundle.state import StoredHistories
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import Floats64, Ids
from recsys.errors import BundleMismatch

ITEMS_FILE, USERS_FILE = "two_tower/items.parquet", "two_tower/users.parquet"


@dataclass(frozen=True)
class Embeddings:
    """Item and user vectors whose inner products are the model's scores, and what is known of items and users."""

    catalogue: Catalogue
    titles: tuple[str, ...]
    items: Floats64
    """float64[items, d] by catalogue row."""
    users: Floats64
    """float64[users, d]."""
    event_users: Ids
    """Row of `users` of each event of the bundle's histories."""
    event_items: Ids
    """Row of the catalogue of each."""

    @classmethod
    def load(cls, bundle: Bundle) -> Embeddings:
        """Reads a bundle. Raises BundleMismatch where it has no vectors, or those of other items."""
        if not (bundle.has(ITEMS_FILE) and bundle.has(USERS_FILE)):
            raise BundleMismatch(
                f"{bundle.folder}: has no {ITEMS_FILE} and {USERS_FILE}, so there is nothing to report on; publish a "
                "bundle whose channels include `vector`"
            )
        catalogue, histories = Catalogue.load(bundle.folder), StoredHistories.open(bundle.folder)
        item_ids, items = _read(bundle, ITEMS_FILE, "item_id")
        user_ids, users = _read(bundle, USERS_FILE, "user_id")
        if not np.array_equal(item_ids, catalogue.item_ids) or not np.isin(user_ids, histories.user_ids).all():
            raise BundleMismatch(
                f"{bundle.folder}: vectors of {len(item_ids)} items and {len(user_ids)} users, expected those of the "
                f"bundle's {len(catalogue)} items and of some of its {len(histories.user_ids)} users; publish again"
            )
        # Large bundles have the vectors of some users only: the events of the others are left out.
        row_of = np.full(len(histories.user_ids), -1, np.int64)
        row_of[np.searchsorted(histories.user_ids, user_ids)] = np.arange(len(user_ids))
        event_users = np.repeat(row_of, np.diff(histories.indptr))
        event_items = catalogue.rows(histories.item_ids)
        known = (event_items >= 0) & (event_users >= 0)
        titles = tuple(ItemTexts.load(bundle.folder).titles)
        return cls(catalogue, titles, items, users, event_users[known], event_items[known])

    @cached_property
    def item_events(self) -> Ids:
        """int64[items]: events of each item."""
        return np.bincount(self.event_items, minlength=len(self.catalogue)).astype(np.int64)

    @cached_property
    def informative(self) -> NDArray[np.bool_]:
        """bool[d]: dimensions in which users differ; the others (a constant, padding) rank nothing differently."""
        spread: Floats64 = self.users.std(axis=0)
        return spread > 1e-6 * max(float(spread.max(initial=0.0)), 1e-12)

    @cached_property
    def item_space(self) -> Floats64:
        """float64[items, d], rows of length 1: item vectors without their mean, each dimension weighted by how much
        users differ in it. Items are near each other here where the same users score both high."""
        return _directions((self.items - self.items.mean(axis=0)) * self.users.std(axis=0))

    @cached_property
    def user_space(self) -> Floats64:
        """float64[users, d], rows of length 1: likewise for users, weighted by how much items differ."""
        return _directions((self.users - self.users.mean(axis=0)) * self.items.std(axis=0))

    def best_known(self, n: int) -> Ids:
        """Rows of the `n` items with the most events, most first."""
        return np.argsort(-self.item_events, kind="stable")[:n]


def _read(bundle: Bundle, file: str, key: str) -> tuple[Ids, Floats64]:
    table = pq.read_table(bundle.path(file))
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    return table[key].to_numpy(), flat.reshape(len(table), -1).astype(np.float64)


def _directions(vectors: Floats64) -> Floats64:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: Floats64 = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return directions
