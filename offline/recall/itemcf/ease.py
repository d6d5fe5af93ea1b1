"""EASE: the linear item-item model with zero diagonal in closed form (Steck, "Embarrassingly Shallow Autoencoders for
Sparse Data", WWW 2019). One dense float32 matrix of items × items, from first to last in place.

Where users are few, the inverse is had from their side: by Woodbury's identity
(X'X + reg I)^-1 = (I - X'(XX' + reg I)^-1 X) / reg, which inverts users × users and multiplies once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, blas, cholesky, lapack, solve_triangular
from scipy.sparse import csc_array, csr_array
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from recsys.errors import DataError

_BLOCK_BYTES = 32 * 2**20
"""Size of one block of rows while the Gram matrix is built or mirrored."""

_ONE_THREAD_ITEMS = 6_000
"""Up to here one thread takes seconds; several spin on a busy machine and took twenty times as long."""

_ITEMS_PER_USER = 8
"""With so many items for each user, the side of the users takes an eighth of the time, and an eighth more memory."""


def from_users(users: int, items: int) -> bool:
    """Whether `ease_weights` works from the side of the users: it then holds a float32[users, items] besides."""
    return users * _ITEMS_PER_USER <= items


def ease_weights(users_by_items: csc_array, reg: float) -> NDArray[np.float32]:
    """float32[n, n]: weight of source item i (row) for target item j (column); 0 on the diagonal.

    `users_by_items` is float32[users, n]. With P = (X'X + reg I)^-1 the weights are B_ij = -P_ij / P_jj, which
    minimises |X - XB|^2 + reg |B|^2 subject to a zero diagonal.

    Raises:
        DataError: the matrix is not positive definite in float32, because `reg` is too small.
    """
    users, items = users_by_items.shape
    with threadpool_limits(1 if items <= _ONE_THREAD_ITEMS else None, user_api="blas"):
        if from_users(users, items):
            weights = _explained(users_by_items, reg)
            weights /= 1 - weights.diagonal()
        else:
            weights = _invert(_gram(users_by_items, reg), reg)
            weights /= -weights.diagonal().copy()
    np.fill_diagonal(weights, 0)
    return weights


def _explained(users_by_items: csc_array, reg: float) -> NDArray[np.float32]:
    """float32[n, n]: X'(XX' + reg I)^-1 X, in C order; its diagonal is below 1."""
    likeness = (users_by_items @ users_by_items.T).toarray()
    likeness[np.diag_indices_from(likeness)] += np.float32(reg)
    try:
        factor = cholesky(likeness, lower=True, overwrite_a=True)
    except LinAlgError:
        raise DataError(f"EASE: the user matrix is singular with reg {reg:g}; raise itemcf reg") from None
    whitened = solve_triangular(factor, users_by_items.toarray(order="F"), lower=True, overwrite_b=True)
    explained = _mirrored(blas.ssyrk(1.0, whitened, trans=1, lower=1))
    if (explained.diagonal() >= 1).any():
        raise DataError(f"EASE: the item matrix is singular with reg {reg:g}; raise itemcf reg")
    return explained


def _gram(users_by_items: csc_array, reg: float) -> NDArray[np.float32]:
    """float32[n, n] in Fortran order: X'X + reg I; as it is symmetric, columns are written as rows of the transpose."""
    n = users_by_items.shape[1]
    by_user = csr_array(users_by_items)
    gram = np.zeros((n, n), np.float32, order="F")
    for block in tqdm(row_blocks(n), desc="ease: gram", unit="block", leave=False, disable=None):
        product = csr_array(users_by_items[:, block].T @ by_user)
        product.toarray(out=gram.T[block])
    gram[np.diag_indices(n)] += np.float32(reg)
    return gram


def _invert(matrix: NDArray[np.float32], reg: float) -> NDArray[np.float32]:
    """Inverse of a symmetric positive definite matrix, in its own memory (LAPACK potrf, potri), in C order."""
    factor, failed = lapack.spotrf(matrix, lower=1, overwrite_a=1)
    if failed:
        raise DataError(f"EASE: the item matrix is not positive definite with reg {reg:g}; raise itemcf reg")
    inverse, failed = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise DataError(f"EASE: the item matrix is singular with reg {reg:g}; raise itemcf reg")
    return _mirrored(inverse)


def _mirrored(lower: NDArray[np.float32]) -> NDArray[np.float32]:
    """The symmetric matrix whose lower triangle this one in Fortran order holds, in its own memory, in C order."""
    upper: NDArray[np.float32] = lower.T
    for block in row_blocks(len(upper)):
        rows = np.arange(block.start, block.stop)
        below = np.arange(len(upper)) < rows[:, None]
        np.copyto(upper[block], upper[:, block].T, where=below)
    return upper


def row_blocks(n: int) -> list[slice]:
    """Slices over the rows of a float32[n, n] matrix, each of about 32 MiB."""
    size = max(1, _BLOCK_BYTES // max(4 * n, 1))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
