# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# distutils: language = c++
"""Links from past items to candidates, summed over what they touch: nothing takes longer in a larger catalogue.

    score(i) = sum over past items j of weight(j) · link(j, i)
"""

import numpy as np

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from libcpp.algorithm cimport nth_element, sort

cdef struct Sum:
    double score
    uint64_t strongest  # contribution: its bits, and the complement of the position of the past item it came from


cdef class Scratch:
    """A sum for each row of a catalogue, with scores of 0 between two searches; what no search touches takes no memory."""

    cdef Sum *sums
    cdef uint64_t *touched

    def __cinit__(self, Py_ssize_t items):
        self.sums = <Sum *>calloc(items + 1, sizeof(Sum))
        self.touched = <uint64_t *>calloc(items + 1, sizeof(uint64_t))
        if self.sums is NULL or self.touched is NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.sums)
        free(self.touched)


cdef class Links:
    """Links between the items of a catalogue: `neighbours` int32[items, k] are the rows that each row links to,
    those outside the catalogue being no links, and `weights` float32[items, k] are above 0.

    Safe to use from several threads.
    """

    cdef const int32_t[:, ::1] neighbours
    cdef const float[:, ::1] weights
    cdef list spare  # scratches that no thread is using

    def __init__(self, neighbours, weights):
        self.neighbours, self.weights = neighbours, weights
        self.spare = []

    def best(self, const int64_t[::1] rows, const float[::1] weights, Py_ssize_t count, *,
             const int64_t[::1] excluded, const uint8_t[::1] passing):
        """The `count` candidates with the highest scores above 0, best first, equal ones in order of row.

        `rows` int64[m] and `weights` float32[m] are the past items, each once; `excluded` int64[e] are rows that may
        not come, `passing` uint8[items] is 0 for others, None if there are none. Rows are not checked.
        Returns the rows int64[n], their scores float32[n], added in double precision in the order of `rows`, and
        int64[n] the positions in `rows` of what contributed most, the first of equals.
        """
        cdef Scratch scratch
        try:
            scratch = self.spare.pop()
        except IndexError:
            scratch = Scratch(self.neighbours.shape[0])
        cdef Py_ssize_t n
        with nogil:
            n = add(self, rows, weights, scratch)
            n = keep(scratch, n, excluded, passing)
            count = max(min(count, n), 0)
            order(scratch.touched, count, n)
        found, scores, seeds = np.empty(count, np.int64), np.empty(count, np.float32), np.empty(count, np.int64)
        take(scratch, found, scores, seeds)
        self.spare.append(scratch)
        return found, scores, seeds


cdef Py_ssize_t add(Links self, const int64_t[::1] rows, const float[::1] weights, Scratch scratch) noexcept nogil:
    # Adds up all contributions; the rows that have one are listed, and counted. Nothing here is a branch that would be
    # predicted wrongly: positive floats sort as their bits do, so the strongest contribution is a maximum of integers.
    cdef Py_ssize_t past, link, n = 0
    cdef uint32_t row, bits, items = <uint32_t>self.neighbours.shape[0]
    cdef uint64_t strongest, packed
    cdef float contribution
    cdef uint64_t first
    cdef const int32_t *targets
    cdef const float *links
    cdef Sum *sums = scratch.sums
    cdef uint64_t *touched = scratch.touched
    for past in range(rows.shape[0] if self.neighbours.shape[1] else 0):
        targets, links = &self.neighbours[rows[past], 0], &self.weights[rows[past], 0]
        for link in range(self.neighbours.shape[1]):
            row, contribution = <uint32_t>targets[link], links[link] * weights[past]
            if contribution > 0 and row < items:
                touched[n] = row
                first = sums[row].score == 0
                n += first
                sums[row].score += contribution
                memcpy(&bits, &contribution, sizeof(bits))
                packed = <uint64_t>bits << 32 | <uint32_t>~past
                strongest = sums[row].strongest * (1 - first)  # what an earlier search has left does not count
                sums[row].strongest = max(packed, strongest)
    return n


cdef Py_ssize_t keep(Scratch scratch, Py_ssize_t n, const int64_t[::1] excluded, const uint8_t[::1] passing) noexcept nogil:
    # Candidates as numbers that sort as they should: the complement of the score's bits, then the row. The scores are
    # 0 again afterwards.
    cdef Py_ssize_t i, kept = 0
    cdef uint64_t row
    cdef uint32_t bits
    cdef float score
    for i in range(excluded.shape[0]):
        scratch.sums[excluded[i]].score = 0
    for i in range(n):
        row = scratch.touched[i]
        if scratch.sums[row].score > 0 and (passing is None or passing[row]):
            score = <float>scratch.sums[row].score
            memcpy(&bits, &score, sizeof(bits))
            scratch.touched[kept] = <uint64_t>~bits << 32 | row
            kept += 1
        scratch.sums[row].score = 0
    return kept


cdef void order(uint64_t *candidates, Py_ssize_t count, Py_ssize_t n) noexcept nogil:
    if count < n:
        nth_element(candidates, candidates + count, candidates + n)
    sort(candidates, candidates + count)


cdef void take(Scratch scratch, int64_t[::1] rows, float[::1] scores, int64_t[::1] seeds) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint32_t bits
    for i in range(rows.shape[0]):
        bits = ~<uint32_t>(scratch.touched[i] >> 32)
        memcpy(&scores[i], &bits, sizeof(bits))
        rows[i] = <uint32_t>scratch.touched[i]
        seeds[i] = <uint32_t>~scratch.sums[rows[i]].strongest
