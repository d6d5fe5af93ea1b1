"""EASE: the linear item-item model with zero diagonal in closed form (Steck, "Embarrassingly Shallow Autoencoders for
Sparse Data", WWW 2019). With the interaction matrix X, users × n, it is five lines:

    gram = X.T @ X
    gram[np.diag_indices(n)] += reg
    inverse = np.linalg.inv(gram)
    weights = inverse / -inverse.diagonal()
    np.fill_diagonal(weights, 0)

Those hold several n × n matrices at once. This module computes the same in the memory of one, in float32.

With few users it inverts the smaller users × users Gram matrix instead. By the Woodbury identity
(X'X + reg I)^-1 = (I - H) / reg with H = X'(XX' + reg I)^-1 X.
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

MOST_USERS_PER_ITEM = 1 / 8
"""With so few users, the user side takes an eighth of the time, and an eighth more memory."""


def from_users(users: int, items: int) -> bool:
    """Whether `ease_weights` inverts users × users: it then holds a float32[users, items], too."""
    return users <= items * MOST_USERS_PER_ITEM


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
            # P = (I - H) / reg, so -P_ij / P_jj = H_ij / (1 - H_jj) off the diagonal: reg cancels.
            weights = _hat(users_by_items, reg)
            weights /= 1 - weights.diagonal()
        else:
            # -P_ij / P_jj divides each column by its own diagonal entry, which the division would overwrite.
            weights = _invert(_gram(users_by_items, reg), reg)
            weights /= -weights.diagonal().copy()
    np.fill_diagonal(weights, 0)
    return weights


def _hat(users_by_items: csc_array, reg: float) -> NDArray[np.float32]:
    """float32[n, n]: H = X'(XX' + reg I)^-1 X, in C order; its diagonal is below 1."""
    # The Gram matrix of the users, regularised: XX' + reg I = LL'.
    gram = (users_by_items @ users_by_items.T).toarray()
    gram[np.diag_indices_from(gram)] += np.float32(reg)
    try:
        factor = cholesky(gram, lower=True, overwrite_a=True)
    except LinAlgError:
        raise DataError(f"EASE: the user matrix is singular with reg {reg:g}; raise itemcf reg") from None
    # With W = L^-1 X, H = W'W; ssyrk computes the lower triangle only.
    whitened = solve_triangular(factor, users_by_items.toarray(order="F"), lower=True, overwrite_b=True)
    hat = _mirrored(blas.ssyrk(1.0, whitened, trans=1, lower=1))
    if (hat.diagonal() >= 1).any():
        raise DataError(f"EASE: the item matrix is singular with reg {reg:g}; raise itemcf reg")
    return hat


def _gram(users_by_items: csc_array, reg: float) -> NDArray[np.float32]:
    """float32[n, n] in Fortran order, as LAPACK wants it: X'X + reg I."""
    n = users_by_items.shape[1]
    by_user = csr_array(users_by_items)
    gram = np.zeros((n, n), np.float32, order="F")
    # By blocks; scipy fills C arrays, so it writes rows of the transpose, which equal the columns by symmetry.
    for block in tqdm(row_blocks(n), desc="ease: gram", unit="block", leave=False, disable=None):
        product = csr_array(users_by_items[:, block].T @ by_user)
        product.toarray(out=gram.T[block])
    gram[np.diag_indices(n)] += np.float32(reg)
    return gram


def _invert(matrix: NDArray[np.float32], reg: float) -> NDArray[np.float32]:
    """Inverse of a symmetric positive definite matrix, in its own memory (LAPACK potrf, potri), in C order."""
    # Cholesky factor LL' of the matrix, then the inverse from L; both use and leave the lower triangle only.
    factor, failed = lapack.spotrf(matrix, lower=1, overwrite_a=1)
    if failed:
        raise DataError(f"EASE: the item matrix is not positive definite with reg {reg:g}; raise itemcf reg")
    inverse, failed = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise DataError(f"EASE: the item matrix is singular with reg {reg:g}; raise itemcf reg")
    return _mirrored(inverse)


def _mirrored(lower: NDArray[np.float32]) -> NDArray[np.float32]:
    """The symmetric matrix whose lower triangle this one in Fortran order holds, in its own memory, in C order."""
    # The transpose of a Fortran array is a C array: the lower triangle becomes the upper one without a copy.
    upper: NDArray[np.float32] = lower.T
    # For a block of rows, cells below the diagonal take their mirror image.
    for block in row_blocks(len(upper)):
        rows = np.arange(block.start, block.stop)
        below = np.arange(len(upper)) < rows[:, None]
        np.copyto(upper[block], upper[:, block].T, where=below)
    return upper


def row_blocks(n: int) -> list[slice]:
    """Slices over the rows of a float32[n, n] matrix, each of about 32 MiB."""
    size = max(1, _BLOCK_BYTES // max(4 * n, 1))
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
