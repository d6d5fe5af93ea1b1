"""A world with known answers: users of dramas continue with dramas, users of westerns with westerns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from offline.dataset.interactions import Dataset, Interactions, Items
from offline.ranking.samples import SampleHistories, Samples
from recall_server.channels.base import DenseChannel
from recsys.bundle import Bundle, ChannelPolicy, ServingPolicy
from recsys.catalogue import Catalogue
from recsys.domain import RecallQuery

DAY = 86_400
USERS, ITEMS, DAYS = 160, 60, 100


def dataset_of_tastes(seed: int = 7) -> Dataset:
    """Items 1 to 60, the odd ones dramas; user u takes ten items of the genre of u's parity, one every ten days."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(1, USERS + 1):
        mine = np.arange(1, ITEMS + 1)[np.arange(1, ITEMS + 1) % 2 == user % 2]
        moments = np.sort(rng.integers(0, DAYS * DAY, 10))
        rows += list(zip([user] * 10, rng.permutation(mine)[:10].tolist(), moments.tolist(), strict=True))
    rows.sort(key=lambda row: row[2])
    users, items, times = (np.asarray(column, np.int64) for column in zip(*rows, strict=True))
    values = rng.integers(1, 6, len(rows)).astype(np.float32)
    return Dataset("tastes", Interactions(users, items, times, np.ones(len(rows), np.int8), values), items_of())


def items_of() -> Items:
    """All of them are there from the beginning."""
    ids = np.arange(1, ITEMS + 1, dtype=np.int64)
    drama = ids % 2 == 1
    texts = np.asarray([f"item {item}" for item in ids], object)
    years = (1950 + ids).astype(np.int16)
    genres, unknown = np.stack([drama, ~drama], axis=1), np.full(ITEMS, np.nan, np.float32)
    return Items(
        ids, texts, texts, years, np.zeros(ITEMS, np.int64), genres, ("Drama", "Western"), None, unknown, unknown
    )


class _Channel(DenseChannel):
    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    @classmethod
    def open(cls, folder: Path) -> Self:
        return cls(Catalogue.load(folder))

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        return cls.open(bundle.folder)


class TasteChannel(_Channel):
    """Knows the truth: items of the genre of the history, in order of id; nothing without a history."""

    name = "taste"

    def scores(self, queries: Sequence[RecallQuery]) -> NDArray[np.float32]:
        scores = np.full((len(queries), len(self.catalogue)), -np.inf, np.float32)
        for row, query in enumerate(queries):
            known = self.catalogue.known_rows(query.history.item_ids)
            if len(known):
                genres = self.catalogue.genres[known].sum(axis=0)
                scores[row] = self.catalogue.genres[:, int(np.argmax(genres))] - 0.001 * self.catalogue.item_ids
        return scores


class NoiseChannel(_Channel):
    """Knows nothing: all items in an order of its own."""

    name = "noise"

    def scores(self, queries: Sequence[RecallQuery]) -> NDArray[np.float32]:
        order = np.random.default_rng(3).permutation(len(self.catalogue)).astype(np.float32)
        return np.tile(order, (len(queries), 1))


def policy_of(ranking: str = "blended", *, noise: float = 1.0) -> ServingPolicy:
    """Both channels alike, unless `noise` weighs more."""
    return ServingPolicy.model_validate(
        {
            "channels": [
                ChannelPolicy(name="noise", count=60, weight=noise),
                ChannelPolicy(name="taste", count=60, weight=1.0),
            ],
            "rank_count": 52,
            "ranking": ranking,
            "serving_clock": "cutoff",
        }
    )


def bare_samples(
    features: NDArray[np.float32], labels: Sequence[int], groups: Sequence[int], relevant_counts: Sequence[int]
) -> Samples:
    """Samples of warm users with nothing but what is given."""
    n = len(labels)
    none = np.empty(0, np.float32)
    histories = SampleHistories(np.zeros(len(groups) + 1, np.int64), np.empty(0, np.int32), none, none)
    return Samples(
        features,
        np.asarray(labels, np.int8),
        np.asarray(groups, np.int64),
        np.asarray(relevant_counts, np.int64),
        np.ones(len(groups), np.bool_),
        np.zeros(n, np.int32),
        np.full(n, np.nan, np.float32),
        histories,
    )
