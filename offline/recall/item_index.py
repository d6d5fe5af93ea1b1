"""The index of a channel that finds items by inner products: built, searched until it is exact enough, and saved."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hnswlib
import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from offline.dataset.interactions import Snapshot
from recall_server.channels.linear import LinearChannel
from recall_server.channels.nearest import EXACT_ROWS, IndexFiles, ItemIndex, SearchFacts, index_files
from recsys.allowed import RowNumbers
from recsys.bundle import IndexFacts
from recsys.domain import Floats32, Floats64, History
from recsys.errors import ContractBroken
from recsys.ordering import top_k

_LOG = logging.getLogger(__name__)

_AT_ONCE = 1_000
_CHECKED_USERS = 200
_MEASURED_USERS = 2_000
_NEIGHBOURS = 100
_MIN_EF = 512
_M_FACTORS = (1, 2, 4)
_EQUAL = 1e-6
_FLOOR = 1e-3
"""Least second moment of users along a direction, as a part of the largest."""


class ItemIndexConfig(BaseModel):
    """How an index is built, and what it must reach."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hnsw_m: int = Field(default=32, ge=2, description="hnswlib M: links per item")
    hnsw_ef_construction: int = Field(default=300, ge=1, description="hnswlib ef_construction: width while building")
    index_recall: float = Field(default=0.99, gt=0, le=1, description="lowest recall@100 against exact search")


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """An index that passed the recall check."""

    index: ItemIndex
    recall_at_100: float

    @property
    def facts(self) -> SearchFacts:
        """What is known of it."""
        described = IndexFacts(dim=self.index.dim, space="ip", count=self.index.count)
        return SearchFacts(index=described, ef=self.index.width, recall_at_100=self.recall_at_100)

    def save(self, folder: Path, files: IndexFiles, *, unused: int = 0) -> None:
        """Writes the graph and the map of queries; users have `unused` more dimensions, which the index lacks."""
        if self.index.query_map is not None:
            np.save(folder / files.query_map, np.pad(self.index.query_map, ((0, unused), (0, 0))))
        self.index.graph.save_index(str(folder / files.graph))


def index_channel(
    channel: LinearChannel, histories: Iterable[History], config: ItemIndexConfig, folder: Path, *, seed: int
) -> None:
    """Writes the index of a channel below `folder` if it knows so many items that a scan takes longer.

    `histories`, sequences of users, are read in that case only. Where no search reaches the recall asked for, as among
    thousands of items with one and the same description, there is a warning and no index: scans are always right.
    """
    known = np.flatnonzero(~channel.unknown)
    if len(known) <= EXACT_ROWS:
        return
    users = np.stack([channel.user_vector(history.last(channel.history_limit)) for history in histories])
    try:
        built, files = build_index(channel.vectors, known, users, config, seed=seed), index_files(channel.name)
    except ContractBroken as error:
        _LOG.warning("%s: %s; without an index, every request scans %d items", channel.name, error, len(known))
        return
    built.save(folder, files)
    (folder / files.facts).write_text(built.facts.model_dump_json(indent=1) + "\n", encoding="utf-8")


def histories_of(snapshot: Snapshot) -> Iterator[History]:
    """The sequences of some users, in order of id: enough to know the metric of all."""
    for row in np.unique(np.linspace(0, len(snapshot.user_ids) - 1, _MEASURED_USERS).astype(np.int64)):
        yield snapshot.history(int(snapshot.user_ids[row])).sequence()


def build_index(
    vectors: Floats32, rows: RowNumbers, users: Floats32, config: ItemIndexConfig, *, seed: int
) -> BuiltIndex:
    """An index over the items at `rows` that is exact enough for `users`, float32[u, dim].

    Where `hnsw_m` does not suffice, it has more links per item: cold items of the same genres and decade have nearly
    the same vector, and few links lead to many of them.

    Raises:
        ContractBroken: no search reaches the recall asked for.
    """
    for factor in _M_FACTORS:
        linked = config.model_copy(update={"hnsw_m": config.hnsw_m * factor})
        index = _in_better_metric(vectors, rows, users, linked, seed=seed)
        try:
            return widen_until_exact(index, vectors, rows, _checked(users), config.index_recall)
        except ContractBroken:
            if factor == _M_FACTORS[-1]:
                raise
    raise AssertionError


def _in_better_metric(
    vectors: Floats32, rows: RowNumbers, users: Floats32, config: ItemIndexConfig, *, seed: int
) -> ItemIndex:
    """An index in the metric of the users; in the plain one if that is better, as it is for users who vary in all
    directions and items that are much alike.
    """
    checked, unmapped = _checked(users), np.eye(vectors.shape[1], dtype=np.float32)
    found: list[tuple[float, ItemIndex]] = []
    for to_index, query_map in (metric_of_users(users), (unmapped, unmapped)):
        placed = of_one_length(vectors[rows] @ to_index)
        graph = build_graph(placed, rows, config, seed=seed)
        index = ItemIndex(graph, placed.shape[1], len(rows), _MIN_EF, query_map)
        found.append((_recall(index, vectors, rows, checked), index))
        if found[-1][0] >= config.index_recall:
            break
    return max(found, key=lambda pair: pair[0])[1]


def _checked(users: Floats32) -> Floats32:
    """About `_CHECKED_USERS` of the users, evenly spread."""
    return users[:: max(len(users) // _CHECKED_USERS, 1)]


def metric_of_users(users: Floats32) -> tuple[Floats32, Floats32]:
    """Maps A for items and B for users, float32[dim, dim] each, with (Bᵀu)·(Aᵀx) = u·x for all u and x.

    A graph links items that are near each other; it leads a user to the best ones quickly where near items have near
    scores. With C the second moment of the users, the expected squared difference of the scores of x and y is
    (x - y)ᵀC(x - y), so A = C^½ makes that the squared distance, and B = C^-½ makes users alike in all directions.
    Trained users often vary in a few directions only, and in the plain metric the others hide what they see.
    """
    moment = users.T.astype(np.float64) @ users / max(len(users), 1)
    values, directions = np.linalg.eigh(moment)
    # A direction that users hardly have keeps some length: a later user may have it.
    floored = np.maximum(values, _FLOOR * values[-1]) if values[-1] > 0 else np.ones_like(values)
    return _power(directions, floored, 0.5), _power(directions, floored, -0.5)


def _power(directions: Floats64, values: Floats64, exponent: float) -> Floats32:
    return ((directions * values**exponent) @ directions.T).astype(np.float32)


def of_one_length(vectors: Floats32) -> Floats32:
    """Appends the dimension that makes all vectors as long as the longest; users have 0 there, so no score changes.

    Inner products are no metric, and a graph over vectors of unlike length does not reach all of them; among vectors
    of one length the largest inner product is the smallest distance (Bachrach et al. 2014, "Speeding up the Xbox
    recommender system").
    """
    # The rest of each vector's squared length to that of the longest goes into one more dimension.
    squares = (vectors.astype(np.float64) ** 2).sum(axis=1)
    rest = np.sqrt(squares.max(initial=0.0) - squares)
    return np.concatenate([vectors, rest[:, None].astype(np.float32)], axis=1)


def build_graph(placed: Floats32, labels: RowNumbers, config: ItemIndexConfig, *, seed: int) -> Any:
    """hnswlib's graph over inner products; one thread and a fixed seed give the same graph every time."""
    graph = hnswlib.Index(space="ip", dim=placed.shape[1])
    graph.init_index(
        max_elements=len(placed), ef_construction=config.hnsw_ef_construction, M=config.hnsw_m, random_seed=seed
    )
    with tqdm(total=len(placed), desc="index", unit="item", leave=False, disable=None) as progress:
        for start in range(0, len(placed), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            graph.add_items(placed[part], labels[part], num_threads=1)
            progress.update(len(labels[part]))
    return graph


def widen_until_exact(
    index: ItemIndex, vectors: Floats32, rows: RowNumbers, users: Floats32, min_recall: float
) -> BuiltIndex:
    """Widens the search by half until recall@100 is at least `min_recall`.

    Raises:
        ContractBroken: even a search as wide as the catalogue stays below.
    """
    while True:
        recall = _recall(index, vectors, rows, users)
        if recall >= min_recall:
            return BuiltIndex(index, recall)
        if index.width >= index.count:
            raise ContractBroken(
                f"hnswlib index: recall@{_NEIGHBOURS} is {recall:.3f} at ef {index.width}, expected {min_recall}; "
                "raise hnsw_m and hnsw_ef_construction"
            )
        index = replace(index, width=index.width * 3 // 2)


def _recall(index: ItemIndex, vectors: Floats32, rows: RowNumbers, users: Floats32) -> float:
    """Mean share of what the index finds that scores at least as high as the k-th best item, so that ties count.

    0 where the graph reaches fewer than `k` items.
    """
    k, found = min(_NEIGHBOURS, len(rows)), []
    items = vectors[rows]
    for user, nearest in zip(users, index.nearest(users, index.width), strict=True):
        scores = items @ user
        worst = scores[top_k(scores, k)[-1]] if k else 0.0
        best = np.sort(vectors[nearest] @ user)[::-1][:k]
        found.append(float((best >= worst - _EQUAL * max(abs(worst), 1.0)).sum()) / max(k, 1))
    return float(np.mean(found)) if found else 1.0
