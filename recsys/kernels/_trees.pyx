# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Tree ensembles scored without walking a tree: Lucchese et al., "QuickScorer", SIGIR 2015, over blocks of rows.

The leaves of a tree are numbered from left to right, one bit each. A node whose test fails rules out the leaves on its
left. In whatever order the nodes are looked at, the leaf that a row ends in is the lowest that none has ruled out. So
no step waits for the one before it, and the compiler handles several rows at a time.
"""

import numpy as np

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

cdef extern from *:
    """
    #define LOWEST_BIT __builtin_ctzll
    """
    int LOWEST_BIT(uint64_t word) noexcept nogil

cdef enum:
    BLOCK = 128  # rows at a time: what is kept of them fits the first-level cache

ctypedef fused Leaves:  # of one tree, a bit each
    uint32_t
    uint64_t


cdef class Ensemble:
    """The sum of one leaf per tree, plus `base_weight` times the feature in `base_column`.

    The trees read c values of a row: the feature `column[i]`, and in place of NaN `missing[i]`. The nodes of tree t are
    those from `node_start[t]` to before `node_start[t + 1]`, in any order. A row goes left at a node where value
    `node_column` is at most `threshold`; bit l of `left_leaves` is set where leaf l of the tree is on the node's left.
    Leaves are numbered from left to right, at most 64 a tree; their values are those from `leaf_start[t]` on.

    The arrays are not checked: an index out of range reads foreign memory.
    """

    cdef const int32_t[::1] column, node_start, node_column, leaf_start
    cdef const float[::1] missing, threshold, leaf_value
    cdef const uint64_t[::1] left_leaves
    cdef Py_ssize_t base_column, width
    cdef float base_weight
    cdef bint wide

    def __init__(self, *, column, missing, node_start, node_column, threshold, left_leaves, leaf_start, leaf_value,
                 Py_ssize_t base_column, float base_weight):
        self.column, self.missing = column, missing
        self.node_start, self.node_column = node_start, node_column
        self.threshold, self.left_leaves = threshold, left_leaves
        self.leaf_start, self.leaf_value = leaf_start, leaf_value
        self.base_column, self.base_weight = base_column, base_weight
        self.width = max(np.max(column, initial=-1), base_column) + 1
        self.wide = np.diff(leaf_start).max(initial=0) > 32

    def score(self, const float[:, ::1] features):
        """float32[n] for float32[n, F]; ValueError where F is too small.

        Adds in single precision, tree by tree, as ONNX Runtime does.
        """
        cdef Py_ssize_t start, rows, n = features.shape[0]
        if features.shape[1] < self.width:
            raise ValueError(f"features of {features.shape[1]} columns, expected at least {self.width}")
        scores = np.zeros(n, np.float32)
        cdef float[::1] out = scores
        cdef float *block = <float *>malloc((self.column.shape[0] + 1) * BLOCK * sizeof(float))
        if block is NULL:
            raise MemoryError
        with nogil:
            start = 0
            while start < n:
                rows = min(n - start, BLOCK)
                gather(self, features, start, rows, block)
                if self.wide:
                    add_trees[uint64_t](self, block, rows, &out[start], 0)
                else:
                    add_trees[uint32_t](self, block, rows, &out[start], 0)
                add_base(self, features, start, rows, out)
                start += rows
            free(block)
        return scores


cdef void gather(Ensemble self, const float[:, ::1] features, Py_ssize_t start, Py_ssize_t rows, float *block) noexcept nogil:
    # Column by column: the values of these rows, and in place of NaN what sends them the right way.
    cdef Py_ssize_t c, i
    cdef float value
    for i in range(rows):
        for c in range(self.column.shape[0]):
            value = features[start + i, self.column[c]]
            block[c * BLOCK + i] = value if value == value else self.missing[c]


cdef void add_trees(Ensemble self, const float *block, Py_ssize_t rows, float *out, Leaves kind) noexcept nogil:
    cdef Leaves ruled_out[BLOCK]
    cdef Leaves left
    cdef Py_ssize_t tree, node, i
    cdef float threshold
    cdef const float *values
    cdef const float *leaf
    for tree in range(self.node_start.shape[0] - 1):
        for i in range(rows):
            ruled_out[i] = 0
        for node in range(self.node_start[tree], self.node_start[tree + 1]):
            values, threshold = block + self.node_column[node] * BLOCK, self.threshold[node]
            left = <Leaves>self.left_leaves[node]
            for i in range(rows):
                ruled_out[i] |= left if values[i] > threshold else 0
        # score += value of the lowest leaf that is left
        leaf = &self.leaf_value[self.leaf_start[tree]]
        for i in range(rows):
            out[i] += leaf[LOWEST_BIT(~<uint64_t>ruled_out[i])]


cdef void add_base(Ensemble self, const float[:, ::1] features, Py_ssize_t start, Py_ssize_t rows, float[::1] out) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(start, start + rows):
        out[i] += self.base_weight * features[i, self.base_column]
