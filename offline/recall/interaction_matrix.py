"""Events as a matrix of users and items: what item-based and factor models learn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from offline.dataset.interactions import Snapshot
from recall_server.channels.evidence import ValueScale

_VALUE_SAMPLE = 1_000_000


def interaction_matrix(snapshot: Snapshot, scale: ValueScale) -> csr_array:
    """float32[users, items]: positive evidence; several events of one item add up to at most 1."""
    events = snapshot.events
    # Copied, since it is changed in place and the events are shared.
    matrix = csr_array(
        (events.weights * scale.evidence(events.values), events.item_rows, events.indptr),
        shape=(len(snapshot.user_ids), len(snapshot.catalogue)),
        copy=True,
    )
    matrix.sum_duplicates()
    np.minimum(matrix.data, 1, out=matrix.data)
    matrix.eliminate_zeros()
    return matrix


def value_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """1st and 99th percentile of the values, so that an outlier does not set the scale; (0, 0) where there is none."""
    sample = values[:: max(1, len(values) // _VALUE_SAMPLE)]
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return 0.0, 0.0
    low, high = np.percentile(sample, [1, 99])
    return float(low), float(high)
