from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Ids, Mask, Scores

def merge(
    item_ids: Sequence[Ids],
    scores: Sequence[Scores],
    seed_item_ids: Sequence[Ids | None],
    seed_present: Sequence[Mask | None],
) -> tuple[Ids, NDArray[np.float32], NDArray[np.int32], Ids, Mask]: ...
def blend(ranks: NDArray[np.int32], weights: NDArray[np.float64], constant: float) -> Scores: ...
