import numpy as np
from numpy.typing import NDArray

def strongest(
    item_starts: NDArray[np.int64],
    item_users: NDArray[np.int32],
    item_values: NDArray[np.float32],
    user_starts: NDArray[np.int64],
    user_items: NDArray[np.int32],
    user_values: NDArray[np.float32],
    sources: NDArray[np.int64],
    norms: NDArray[np.float32] | None,
    shrink: float,
    scale: float,
    k: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]: ...
