from typing import final

import numpy as np
from numpy.typing import NDArray

@final
class Links:
    def __init__(self, neighbours: NDArray[np.int32], weights: NDArray[np.float32]) -> None: ...
    def best(
        self,
        rows: NDArray[np.int64],
        weights: NDArray[np.float32],
        count: int,
        *,
        excluded: NDArray[np.int64],
        passing: NDArray[np.uint8] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]: ...
