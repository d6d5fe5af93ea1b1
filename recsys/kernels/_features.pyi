from collections.abc import Mapping
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from recsys.features.queries import QueryBatch
from recsys.features.user import ItemTraits

Ragged: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32]]

@final
class Features:
    def __init__(
        self,
        columns: Mapping[str, NDArray[np.int64]],
        ranked: NDArray[np.int64],
        *,
        items: NDArray[np.float32],
        stages: NDArray[np.float32],
        vectors: NDArray[np.float32],
        traits: ItemTraits,
        directors: Ragged | None,
        cast: Ragged | None,
        recency: NDArray[np.float32],
        stage_bounds: NDArray[np.int64],
        decades: int,
        missing: float,
        day: int,
        session_gap: int,
        hour_width: int,
        last: int,
        latest: int,
        worst_rank: float,
        worst_score: float,
        fusion: float,
    ) -> None: ...
    def fill(self, batch: QueryBatch, values: NDArray[np.float32]) -> None: ...
