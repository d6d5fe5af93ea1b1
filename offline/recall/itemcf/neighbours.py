"""The strongest links of each item: CSR with rows of one length, which a server gathers fastest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.ordering import top_k


class NeighbourLists:
    """For each of n items at most k links, the strongest positive ones; equal weights in order of row."""

    def __init__(self, n: int, k: int) -> None:
        self.k = min(k, n)
        self._targets = np.full((n, self.k), n, np.int32)
        self._weights = np.zeros((n, self.k), np.float32)
        self._lengths = np.zeros(n, np.int64)

    def put(self, source: int, targets: NDArray[np.integer], weights: NDArray[np.float32]) -> None:
        """Adds links of item `source`: `targets` are rows it has no link to yet, ascending, parallel to `weights`."""
        # Earlier links of the item come in again, so that old and new ones compete; targets stay ascending.
        held = int(self._lengths[source])
        if held:
            targets = np.concatenate([self._targets[source, :held], targets])
            weights = np.concatenate([self._weights[source, :held], weights])
            order = np.argsort(targets)
            targets, weights = targets[order], weights[order]
        # The k strongest positive links, stored in order of their targets.
        kept = np.sort(top_k(np.where(weights > 0, weights, np.float32(-np.inf)), self.k))
        self._targets[source, : len(kept)] = targets[kept]
        self._weights[source, : len(kept)] = weights[kept]
        self._lengths[source] = len(kept)

    def arrays(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """(targets int32[n, k], weights float32[n, k]): targets ascending; a shorter row ends in n with weight 0."""
        return self._targets, self._weights
