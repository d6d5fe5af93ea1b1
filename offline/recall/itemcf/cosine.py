"""Similarity of items by their users, in blocks of rows, so that nothing is ever dense in items × items."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array


def cosine_blocks(
    users_by_items: csc_array,
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    *,
    shrink: float | None,
    block_entries: int = 4 * 2**20,
) -> Iterator[tuple[slice, csr_array]]:
    """Yields (slice of `sources`, float32[block, items]): similarity of these source items with the target items.

    The similarity of x and y is x·y / (|x| |y| + shrink), the cosine with shrinkage, or x·y where `shrink` is None;
    columns that are no target and the item itself are absent.
    `block_entries` bounds the entries of a block of more than one item, and with them memory: 8 bytes each.
    """
    # |x|, the Euclidean norm of each item's column.
    events_per_user = np.diff(csr_array(users_by_items).indptr)
    norms = np.sqrt(np.asarray(users_by_items.power(2).sum(axis=0), np.float32)).ravel()
    by_user = csr_array(users_by_items[:, targets])
    for block in _cut(_bounds(users_by_items, sources, events_per_user), block_entries):
        # x·y of every source in the block with every target: entries exist only where they share a user.
        rows = sources[block]
        product = csr_array(users_by_items[:, rows].T @ by_user)
        # Of each entry: its row in the block, and the catalogue row of its target.
        source = np.repeat(np.arange(len(rows)), np.diff(product.indptr))
        target = targets[product.indices]
        if shrink is not None:
            product.data /= norms[rows[source]] * norms[target] + np.float32(shrink)
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
