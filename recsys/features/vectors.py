"""Item vectors whose cosine is high where the same users take both items: a truncated SVD of the interactions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recsys.features.events import ItemEvents

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

SIZE = 64
PASSES = 4
"""Power iterations (Halko, Martinsson, Tropp 2011, "Finding structure with randomness", algorithm 4.4)."""
OVERSAMPLING = 16
PRIOR_EVENTS = 5.0
"""Added to the events of an item before it is scaled, so that a rare item does not weigh more than a known one."""
SHORTEST = 1e-9
"""A vector shorter than this is none."""


def item_vectors(events: ItemEvents, n: int, *, size: int = SIZE) -> NDArray[np.float32]:
    """float32[n, size]: unit vectors, zeros for an item without events; the same events give the same vectors.

    The matrix of users × items is scaled by 1 / sqrt(events of the user) and 1 / sqrt(events of the item + prior); its
    right singular vectors, times the singular values, are the items.
    """
    # Only training builds vectors; what serves does without scipy.
    from scipy import sparse

    users = int(events.user_rows[-1]) + 1 if len(events.user_rows) else 0
    found = min(size, users, n)
    vectors = np.zeros((n, size), np.float32)
    if not found:
        return vectors
    rows, columns = events.user_rows, events.item_rows
    of_user, of_item = np.bincount(rows, minlength=users), np.bincount(columns, minlength=n)
    scale = 1.0 / np.sqrt(of_user[rows] * (of_item[columns] + PRIOR_EVENTS))
    matrix = sparse.csr_matrix((scale, (rows, columns)), shape=(users, n))
    vectors[:, :found] = _principal(matrix, found)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.divide(vectors, lengths, out=vectors, where=lengths > SHORTEST)
    return vectors


def _principal(matrix: csr_matrix[np.float64], size: int) -> NDArray[np.float64]:
    """Right singular vectors times singular values, largest first."""
    users, items = matrix.shape
    basis = np.random.default_rng(0).standard_normal((items, min(size + OVERSAMPLING, users, items)))
    for _ in range(1 + PASSES):
        basis = np.linalg.qr(np.asarray(matrix.T @ (matrix @ basis)))[0]
    _, values, right = np.linalg.svd(np.asarray(matrix @ basis), full_matrices=False)
    found: NDArray[np.float64] = (basis @ right.T)[:, :size] * values[:size]
    return found
