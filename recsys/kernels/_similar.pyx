# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: language = c++
"""The most similar items of an item, from the users that they share: no item that shares none is looked at.

    similarity(x, y) = scale · x·y / (|x| |y| + shrink), or scale · x·y
"""

import numpy as np

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from libcpp.algorithm cimport nth_element, sort
from libcpp.functional cimport greater


def strongest(const int64_t[::1] item_starts, const int32_t[::1] item_users, const float[::1] item_values,
              const int64_t[::1] user_starts, const int32_t[::1] user_items, const float[::1] user_values,
              const int64_t[::1] sources, const float[::1] norms, float shrink, float scale, Py_ssize_t k):
    """The `k` most similar items of each source item, not itself, of those with a similarity above 0.

    The first three arrays are the interactions by item (CSC), the next three those with the target items by user (CSR
    with rows of the catalogue). `norms` float32[items] is |x|; None leaves the denominator out. Nothing is checked.
    Returns int32[sources, k] rows, ascending, and float32[sources, k] similarities, all in single precision; equal ones
    are taken in order of row, and a shorter list ends in the number of items with 0.
    """
    cdef Py_ssize_t items = item_starts.shape[0] - 1, at
    rows = np.full((sources.shape[0], k), items, np.int32)
    similarities = np.zeros((sources.shape[0], k), np.float32)
    cdef int32_t[:, ::1] found = rows
    cdef float[:, ::1] weights = similarities
    cdef float *sums = <float *>calloc(items + 1, sizeof(float))
    cdef uint64_t *touched = <uint64_t *>calloc(items + 1, sizeof(uint64_t))
    cdef Py_ssize_t n
    cdef int64_t source
    try:
        if sums is NULL or touched is NULL:
            raise MemoryError
        with nogil:
            for at in range(sources.shape[0]):
                source = sources[at]
                n = add(item_users, item_values, item_starts[source], item_starts[source + 1],
                        user_starts, user_items, user_values, sums, touched)
                n = weigh(source, norms, shrink, scale, sums, touched, n)
                if k < n:
                    nth_element(touched, touched + k, touched + n, greater[uint64_t]())
                    n = k
                take(touched, n, found[at], weights[at])
    finally:
        free(sums)
        free(touched)
    return rows, similarities


cdef Py_ssize_t add(const int32_t[::1] item_users, const float[::1] item_values, Py_ssize_t start, Py_ssize_t end,
                    const int64_t[::1] user_starts, const int32_t[::1] user_items, const float[::1] user_values,
                    float *sums, uint64_t *touched) noexcept nogil:
    # x·y of the source with every target that shares a user with it, added up in order of user. The rows that have one
    # are listed, and counted.
    cdef Py_ssize_t i, j, n = 0
    cdef int32_t row
    cdef float product
    for i in range(start, end):
        for j in range(user_starts[item_users[i]], user_starts[item_users[i] + 1]):
            row = user_items[j]
            product = item_values[i] * user_values[j]
            touched[n] = row
            n += sums[row] == 0 and product > 0
            sums[row] += product
    return n


cdef Py_ssize_t weigh(int64_t source, const float[::1] norms, float shrink, float scale,
                      float *sums, uint64_t *touched, Py_ssize_t n) noexcept nogil:
    # Similarities as numbers that sort as they should, the largest first: positive floats sort as their bits do, and
    # the complement of the row comes after them. The sums are 0 again afterwards.
    cdef Py_ssize_t i, kept = 0
    cdef uint64_t row
    cdef uint32_t bits
    cdef float similarity
    for i in range(n):
        row = touched[i]
        similarity = sums[row]
        sums[row] = 0
        if norms is not None:
            similarity /= norms[source] * norms[row] + shrink
        similarity *= scale
        memcpy(&bits, &similarity, sizeof(bits))
        touched[kept] = <uint64_t>bits << 32 | <uint32_t>~row
        kept += similarity > 0 and <int64_t>row != source
    return kept


cdef void take(uint64_t *best, Py_ssize_t n, int32_t[::1] rows, float[::1] similarities) noexcept nogil:
    # In order of row: the two halves change places for it.
    cdef Py_ssize_t i
    cdef uint32_t bits
    for i in range(n):
        best[i] = <uint64_t><uint32_t>~best[i] << 32 | best[i] >> 32
    sort(best, best + n)
    for i in range(n):
        bits = <uint32_t>best[i]
        rows[i] = <int32_t>(best[i] >> 32)
        memcpy(&similarities[i], &bits, sizeof(bits))
