"""The items with the largest inner products with a user's vector: by an index where there are many, exactly otherwise.

The index is a graph (HNSW: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs", TPAMI 2020) that `offline.recall.item_index` builds and checks. It only says
which items are worth scoring: scores are always inner products with the vectors themselves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import hnswlib
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recall_server.channels.files import map_array, read_facts
from recsys.allowed import Allowed, RowNumbers
from recsys.bundle import IndexFacts
from recsys.domain import NO_IDS, Mask, Scores
from recsys.errors import BundleDamaged, BundleMismatch
from recsys.ordering import top_k

EXACT_ROWS = 10_000
"""A scan of so many rows takes as long as a search of width `SCAN_WIDTH`, and is exact (36 to 69 dimensions)."""
SCAN_WIDTH = 512
_CHECKED = 1_000
_HEADER = struct.Struct("<6Q")


class IndexFiles(NamedTuple):
    """Where an index is, relative to the bundle."""

    facts: str
    graph: str
    query_map: str
    """float32[dim, d]: a user's vector times this is what the graph is asked. Absent: the vector itself."""


def index_files(channel: str) -> IndexFiles:
    """Those of a channel that has an index only where its catalogue is large."""
    return IndexFiles(f"{channel}/index.json", f"{channel}/index.hnsw", f"{channel}/query_map.npy")


class SearchFacts(BaseModel):
    """What an index is, and how well it was found to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: IndexFacts
    ef: int = Field(ge=1, description="width of the search that passed the recall check; at least as wide when served")
    recall_at_100: float = Field(ge=0, le=1, description="of the index at that width, against exact search")


@dataclass(frozen=True, slots=True)
class ItemIndex:
    """A graph over item vectors. Labels are catalogue rows."""

    graph: Any
    """hnswlib's index."""
    dim: int
    count: int
    width: int
    """Least width of a search."""
    query_map: NDArray[np.float32] | None = None

    @classmethod
    def open(cls, folder: Path, files: IndexFiles, facts: SearchFacts, vectors: NDArray[np.float32]) -> Self:
        """Opens an index after checking that it is what `facts` say and holds `vectors`, float32[items, dim].

        hnswlib opens a file of another dim or space without complaint. Dim and count are in the file's header. The
        space is not, so it must be inner products, and what the index returns is compared with those of `vectors`.

        Raises:
            BundleDamaged: a file cannot be read.
            BundleMismatch: another dim, count or space, or other vectors.
        """
        path, described = folder / files.graph, facts.index
        if described.space != "ip":
            raise BundleMismatch(
                f"{path}: {files.facts} says space {described.space}, scores are inner products; train again"
            )
        dim, count = _header(path)
        if (dim, count) != (described.dim, described.count):
            raise BundleMismatch(
                f"{path}: dim {dim} and {count} items, expected dim {described.dim} and {described.count}; "
                "train and publish again"
            )
        graph = hnswlib.Index(space=described.space, dim=dim)
        try:
            graph.load_index(str(path), max_elements=max(count, 1))
        except RuntimeError as error:
            raise BundleDamaged(f"{path}: hnswlib cannot read it ({error}); train and publish again") from error
        graph.set_num_threads(1)
        query_map = None
        if (folder / files.query_map).is_file():
            shape = (vectors.shape[1], dim - 1)
            query_map = map_array(folder / files.query_map, shape, np.dtype(np.float32), facts=files.facts)
        index = cls(graph, dim, count, facts.ef, query_map)
        index._check(path, vectors)
        return index

    def _check(self, path: Path, vectors: NDArray[np.float32]) -> None:
        """Compares what the graph says of one item with the inner product of two vectors."""
        if not self.count:
            return
        user = vectors[:_CHECKED][np.abs(vectors[:_CHECKED]).sum(axis=1).argmax()]
        if self.query_map is not None:
            user = user * self.query_map.any(axis=1)  # users have nothing in a dimension that the map leaves out
        labels, distances = self.graph.knn_query(self.queries(user[None]), k=1, num_threads=1)
        if not np.allclose(1 - distances[0, 0], vectors[int(labels[0, 0])] @ user, rtol=1e-3, atol=1e-3):
            raise BundleMismatch(f"{path}: its distances are not those of the item vectors; train and publish again")

    def queries(self, users: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[q, dim of the index]: what the graph is asked for each of `users`."""
        if self.query_map is None:
            return users
        asked = np.zeros((len(users), self.dim), np.float32)
        for row, user in zip(asked, users, strict=True):
            # One by one: the product of a whole batch rounds differently, and no answer may depend on the batch.
            row[:-1] = user @ self.query_map
        return asked

    def nearest(self, users: NDArray[np.float32], width: int) -> list[RowNumbers]:
        """For each user int64[width]: the nearest rows, nearest first; none where the graph reaches fewer.

        A search is as wide as the number of items it returns, so the width is a matter of each call.
        """
        try:
            labels, _ = self.graph.knn_query(self.queries(users), k=min(width, self.count), num_threads=1)
        except RuntimeError:
            # hnswlib says so for a whole batch.
            alone = [users[at : at + 1] for at in range(len(users))]
            return [NO_IDS] if len(alone) == 1 else [self.nearest(user, width)[0] for user in alone]
        return list(labels.astype(np.int64))


@dataclass(frozen=True, slots=True)
class ItemSearch:
    """Finds the best of the items that a query may get."""

    vectors: NDArray[np.float32]
    """float32[items, dim] by catalogue row."""
    unknown: Mask | None = None
    """bool[items]: items that must not be found; None: there are none."""
    index: ItemIndex | None = None
    """Over the items that are not unknown; None: every search is exact."""
    exact_rows: int = EXACT_ROWS
    """See `EXACT_ROWS`; with 0 the index is always used."""

    def best(
        self, users: NDArray[np.float32], counts: Sequence[int], allowed: Sequence[Allowed]
    ) -> list[tuple[RowNumbers, Scores]]:
        """For each user the best `count` allowed rows, best first, ties in order of row, and their scores."""
        found = self._by_index(users, counts, allowed)
        return [
            self._exact(user, count, own) if rows is None else self._among(rows, user, count)
            for user, count, own, rows in zip(users, counts, allowed, found, strict=True)
        ]

    def _by_index(
        self, users: NDArray[np.float32], counts: Sequence[int], allowed: Sequence[Allowed]
    ) -> list[RowNumbers | None]:
        """For each user allowed rows, ascending, among which the best are; None where the search must be exact."""
        found: list[RowNumbers | None] = [None] * len(users)
        if self.index is None:
            return found
        narrowest = self.index.width
        widths = [self._first_width(narrowest, count, own) for count, own in zip(counts, allowed, strict=True)]
        # Searches of one width are one call. Where too few of what it finds are allowed, a search is repeated wider.
        while any(widths):
            width = min(filter(None, widths))
            asked = [position for position, own in enumerate(widths) if own == width]
            for position, rows in zip(asked, self.index.nearest(users[asked], width), strict=True):
                own, widths[position] = allowed[position], 0
                passed = own.among(np.sort(rows))
                if len(passed) >= counts[position]:
                    found[position] = passed
                elif len(rows) == width:
                    widths[position] = self._if_it_pays(2 * width, own)
        return found

    def _first_width(self, width: int, count: int, allowed: Allowed) -> int:
        """The width, from `width` on, that finds `count` allowed items if those that pass the filter are spread evenly.

        All excluded items may be among the nearest. 0 where a scan costs less.
        """
        share = 1.0 if allowed.passing is None else allowed.passing.count / allowed.items
        needed = len(allowed.excluded) + count / share if share else math.inf
        while width < needed and self._if_it_pays(width, allowed):
            width *= 2
        return self._if_it_pays(width, allowed)

    def _if_it_pays(self, width: int, allowed: Allowed) -> int:
        """`width`, or 0 where scanning all allowed rows costs less than a search of that width."""
        return width if allowed.count * SCAN_WIDTH > self.exact_rows * width else 0

    def _among(self, rows: RowNumbers, user: NDArray[np.float32], count: int) -> tuple[RowNumbers, Scores]:
        """The best `count` of `rows`, which are ascending."""
        scores = self.vectors[rows] @ user
        best = top_k(scores, count)
        return rows[best], scores[best]

    def _exact(self, user: NDArray[np.float32], count: int, allowed: Allowed) -> tuple[RowNumbers, Scores]:
        """The best `count` of all allowed rows."""
        # If most rows are allowed, scoring all of them costs less than copying most vectors.
        if allowed.count * 2 > allowed.items:
            scores = self.vectors @ user
            allowed.forbid(scores, -np.inf)
            if self.unknown is not None:
                scores[self.unknown] = -np.inf
            best = top_k(scores, count)
            return best, scores[best]
        rows = allowed.rows()
        return self._among(rows if self.unknown is None else rows[~self.unknown[rows]], user, count)


def open_index(folder: Path, channel: str, vectors: NDArray[np.float32]) -> ItemIndex | None:
    """The index of a channel that has one only where its catalogue is large; None where there is none.

    Raises BundleDamaged or BundleMismatch, see `ItemIndex.open`.
    """
    files = index_files(channel)
    if not (folder / files.facts).is_file():
        return None
    return ItemIndex.open(folder, files, read_facts(folder / files.facts, SearchFacts), vectors)


def _header(path: Path) -> tuple[int, int]:
    """Dim and count in the header of an hnswlib file (hnswalg.h, saveIndex: six size_t)."""
    try:
        with path.open("rb") as file:
            _, _, count, _, label_offset, data_offset = _HEADER.unpack(file.read(_HEADER.size))
    except (OSError, struct.error) as error:
        raise BundleDamaged(f"{path}: unreadable ({error}); train and publish again") from error
    return (label_offset - data_offset) // 4, count
