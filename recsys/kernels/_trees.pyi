from typing import final

import numpy as np
from numpy.typing import NDArray

@final
class Ensemble:
    def __init__(
        self,
        *,
        column: NDArray[np.int32],
        missing: NDArray[np.float32],
        node_start: NDArray[np.int32],
        node_column: NDArray[np.int32],
        threshold: NDArray[np.float32],
        left_leaves: NDArray[np.uint64],
        leaf_start: NDArray[np.int32],
        leaf_value: NDArray[np.float32],
        base_column: int,
        base_weight: float,
    ) -> None: ...
    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]: ...
