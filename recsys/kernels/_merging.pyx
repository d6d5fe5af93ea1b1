# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: language = c++
"""The lists of all channels as one table of candidates, and the blend of their ranks.

Both are over in some microseconds, so they keep the GIL: to get it back takes longer.
"""

import numpy as np

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libcpp.algorithm cimport sort
from libcpp.vector cimport vector


cdef class RowTable:
    """Up to `most` ids and the row of each: a hash table with open addressing."""

    cdef vector[int64_t] keys
    cdef vector[int32_t] values

    def __init__(self, size_t most):
        cdef size_t size = 16
        while size < 2 * most:
            size *= 2
        self.keys.resize(size)
        self.values.assign(size, -1)

    cdef size_t place(self, int64_t key) noexcept nogil:
        # Multiplicative hashing: Knuth, The Art of Computer Programming 6.4.
        cdef size_t last = self.keys.size() - 1
        cdef size_t at = <size_t>(<uint64_t>key * <uint64_t>0x9E3779B97F4A7C15 >> 32) & last
        while self.values[at] >= 0 and self.keys[at] != key:
            at = (at + 1) & last
        return at


def merge(list item_ids, list scores, list seed_item_ids, list seed_present):
    """The items of c channels, each once, in order of id: ids int64[n], and for each item and channel, [n, c], the
    score float32, the rank int32, the seed int64 and whether there is one, bool; 0 where a channel did not return it.

    Each argument has an array for each channel, parallel to its ids, best first; seeds may be None. Raises ValueError
    for arrays of different lengths or other types.
    """
    cdef size_t c, i, at, total = sum(map(len, item_ids)), channels = len(item_ids)
    cdef RowTable rows = RowTable(total)
    cdef vector[int64_t] distinct
    cdef const int64_t[:] ids
    # Every id once, in order; then the row of each.
    for ids in item_ids:
        for i in range(<size_t>ids.shape[0]):
            at = rows.place(ids[i])
            if rows.values[at] < 0:
                rows.keys[at], rows.values[at] = ids[i], 0
                distinct.push_back(ids[i])
    sort(distinct.begin(), distinct.end())
    found = np.empty(distinct.size(), np.int64)
    cdef int64_t[::1] out = found
    for i in range(distinct.size()):
        rows.values[rows.place(distinct[i])], out[i] = <int32_t>i, distinct[i]
    # What each channel said, in its column.
    shape = (distinct.size(), channels)
    tables = np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    cdef float[:, ::1] score = tables[0]
    cdef int32_t[:, ::1] rank = tables[1]
    cdef int64_t[:, ::1] seed = tables[2]
    cdef uint8_t[:, ::1] seeded = tables[3].view(np.uint8)
    cdef const float[:] own_scores
    cdef const int64_t[:] own_seeds
    cdef const uint8_t[:] own_seeded
    cdef int32_t row
    for c in range(channels):
        ids, own_scores = item_ids[c], scores[c]
        if own_scores.shape[0] != ids.shape[0]:
            raise ValueError(f"channel {c}: {own_scores.shape[0]} scores for {ids.shape[0]} items")
        for i in range(<size_t>ids.shape[0]):
            row = rows.values[rows.place(ids[i])]
            score[row, c], rank[row, c] = own_scores[i], <int32_t>(i + 1)
        if seed_item_ids[c] is not None:
            own_seeds, own_seeded = seed_item_ids[c], seed_present[c].view(np.uint8)
            if own_seeds.shape[0] != ids.shape[0] or own_seeded.shape[0] != ids.shape[0]:
                raise ValueError(f"channel {c}: {own_seeds.shape[0]} seeds for {ids.shape[0]} items")
            for i in range(<size_t>ids.shape[0]):
                row = rows.values[rows.place(ids[i])]
                seed[row, c], seeded[row, c] = own_seeds[i], own_seeded[i]
    return found, *tables


def blend(const int32_t[:, :] ranks, const double[::1] weights, double constant):
    """float32[n]: the sum over channels of weight / (constant + rank), of those whose rank, int32[n, c], is above 0.

    Raises ValueError unless `weights` is float64[c].
    """
    if weights.shape[0] != ranks.shape[1]:
        raise ValueError(f"{weights.shape[0]} weights for {ranks.shape[1]} channels")
    blended = np.empty(ranks.shape[0], np.float32)
    cdef float[::1] out = blended
    cdef double total
    cdef Py_ssize_t i, c
    for i in range(ranks.shape[0]):
        total = 0
        for c in range(ranks.shape[1]):
            if ranks[i, c] > 0:
                total += weights[c] / (constant + ranks[i, c])
        out[i] = <float>total
    return blended
