"""Similarity of items by their users, in blocks of rows, so that nothing is ever dense in items × items."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from recsys.kernels import COMPILED
from recsys.ordering import top_k

if COMPILED:
    from recsys.kernels import _similar

_AT_ONCE = 256
"""Source items of one call of the kernel."""
_UNREAD = 64
"""Calls at most whose links are in memory at a time."""

LinksOfItem = tuple[int, NDArray[np.int32], NDArray[np.float32]]
"""A source item, rows of its target items, ascending, and their similarities, above 0."""


@dataclass(frozen=True)
class Similarity:
    """Of the items x and y it is x·y / (|x| |y| + shrink), the cosine with shrinkage, or x·y where `shrink` is None."""

    users_by_items: csc_array
    """float32[users, items], at least 0."""
    shrink: float | None

    @cached_property
    def norms(self) -> NDArray[np.float32]:
        """float32[items]: |x|, the Euclidean norm of each item's column."""
        return np.sqrt(np.asarray(self.users_by_items.power(2).sum(axis=0), np.float32)).ravel()


def strongest(
    similarity: Similarity, sources: NDArray[np.int64], targets: NDArray[np.int64], *, k: int, scale: float = 1.0
) -> Iterator[LinksOfItem]:
    """Yields the `k` most similar targets of each source, ties in order of row; multiplies similarities by `scale`."""
    return (_compiled if COMPILED else _reference)(similarity, sources, targets, k, scale)


def _compiled(
    similarity: Similarity, sources: NDArray[np.int64], targets: NDArray[np.int64], k: int, scale: float
) -> Iterator[LinksOfItem]:
    """By the kernel, in as many threads as there are cores."""
    by_item, by_user = similarity.users_by_items, csr_array(similarity.users_by_items[:, targets])
    arrays = (
        *(by_item.indptr.astype(np.int64), by_item.indices.astype(np.int32, copy=False), by_item.data),
        *(by_user.indptr.astype(np.int64), targets.astype(np.int32)[by_user.indices], by_user.data),
    )
    norms, shrink = (None, 0.0) if similarity.shrink is None else (similarity.norms, similarity.shrink)
    parts = [sources[start : start + _AT_ONCE] for start in range(0, len(sources), _AT_ONCE)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for first in range(0, len(parts), _UNREAD):
            some = parts[first : first + _UNREAD]
            found = threads.map(lambda part: _similar.strongest(*arrays, part, norms, shrink, scale, k), some)
            for part, (rows, similarities) in zip(some, found, strict=True):
                lengths = np.count_nonzero(similarities, axis=1).tolist()
                for at, (source, n) in enumerate(zip(part.tolist(), lengths, strict=True)):
                    yield source, rows[at, :n], similarities[at, :n]


def _reference(
    similarity: Similarity, sources: NDArray[np.int64], targets: NDArray[np.int64], k: int, scale: float
) -> Iterator[LinksOfItem]:
    """By products of sparse blocks."""
    for block, found in similarity_blocks(similarity, sources, targets):
        found.sort_indices()
        weights = found.data * np.float32(scale)
        for at, source in enumerate(sources[block].tolist()):
            links = slice(found.indptr[at], found.indptr[at + 1])
            rows, values = found.indices[links], weights[links]
            kept = np.sort(top_k(np.where(values > 0, values, np.float32(-np.inf)), k))
            yield source, rows[kept], values[kept]


def similarity_blocks(
    similarity: Similarity, sources: NDArray[np.int64], targets: NDArray[np.int64], *, block_entries: int = 4 * 2**20
) -> Iterator[tuple[slice, csr_array]]:
    """Yields (slice of `sources`, float32[block, items]): similarity of these source items with the target items.

    Columns that are no target and the item itself are absent. `block_entries` bounds the entries of a block of more
    than one item, and with them memory: 8 bytes each.
    """
    users_by_items = similarity.users_by_items
    events_per_user = np.diff(csr_array(users_by_items).indptr)
    by_user = csr_array(users_by_items[:, targets])
    for block in _cut(_bounds(users_by_items, sources, events_per_user), block_entries):
        # x·y of every source in the block with every target: entries exist only where they share a user.
        rows = sources[block]
        product = csr_array(users_by_items[:, rows].T @ by_user)
        # Of each entry: its row in the block, and the catalogue row of its target.
        source = np.repeat(np.arange(len(rows)), np.diff(product.indptr))
        target = targets[product.indices]
        if similarity.shrink is not None:
            product.data /= similarity.norms[rows[source]] * similarity.norms[target] + np.float32(similarity.shrink)
        # An item is not similar to itself.
        product.data[rows[source] == target] = 0
        yield block, csr_array((product.data, target, product.indptr), shape=(len(rows), users_by_items.shape[1]))


def _bounds(
    users_by_items: csc_array, sources: NDArray[np.int64], events_per_user: NDArray[np.int32]
) -> NDArray[np.int64]:
    """int64[sources]: upper bound of the entries in the row of each source item."""
    # The users of an item reach at most the sum of their history lengths, and never more than all items.
    users = users_by_items[:, sources]
    reachable = np.concatenate([[0], np.cumsum(events_per_user[users.indices], dtype=np.int64)])
    return np.minimum(np.diff(reachable[users.indptr]), users_by_items.shape[1])


def _cut(bounds: NDArray[np.int64], block_entries: int) -> Iterator[slice]:
    """Consecutive slices of at most `block_entries` entries, or of one row that has more."""
    ends = np.cumsum(bounds)
    start = 0
    while start < len(bounds):
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + block_entries, side="right")))
        yield slice(start, end)
        start = end


def bm25(users_by_items: csc_array, *, k1: float, b: float) -> csc_array:
    """float32[users, items]: evidence as Okapi BM25 weighs it, with items as documents and users as their words.

    Of an entry x of user u and item i: x (k1 + 1) / (k1 (1 - b + b |i| / mean |i|) + x) * max(0, log(items / (1 + n))),
    where |i| sums the item's entries and n counts the user's: users of many items and popular items weigh less. It is
    the weight of implicit's `BM25Recommender`, which takes inner products of it for similarities.
    """
    # The document's part: 1 - b + b |i| / mean |i| by item.
    weighted = users_by_items.copy()
    sums = np.asarray(weighted.sum(axis=0), np.float64).ravel()
    lengths = 1 - b + b * sums / max(float(sums.mean()), np.finfo(np.float64).tiny)
    # The word's part: inverse document frequency by user.
    counts = np.bincount(weighted.indices, minlength=weighted.shape[0])
    rarity = np.maximum(np.log(max(weighted.shape[1], 1)) - np.log1p(counts), 0)
    # Saturation of each entry, column by column.
    norms = np.repeat(k1 * lengths, np.diff(weighted.indptr))
    weighted.data = (weighted.data * (k1 + 1) / (norms + weighted.data) * rarity[weighted.indices]).astype(np.float32)
    return weighted
