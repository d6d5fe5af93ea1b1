"""What is better than what: paired differences over the same users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from offline.evaluation.evaluate import BLENDED, RANKED, BootstrapConfig
from offline.metrics.ranking import paired_interval
from offline.studies.benchmark.ours import WHOLE
from offline.studies.benchmark.results import PairedDifference
from recsys.domain import Ids

Values = Mapping[str, NDArray[np.float64]]
"""By system: float64[requests, metrics], all of the same requests."""


def differences(
    own: Values, theirs: Values, metrics: Sequence[str], user_ids: Ids, bootstrap: BootstrapConfig
) -> list[PairedDifference]:
    """By metric, the pairs of `compared`. `user_ids` are those of the requests."""
    found, values = [], {**theirs, **own}
    for column, metric in enumerate(metrics):
        for ours, other in compared(own, theirs, column):
            columns = [values[system][:, column : column + 1] for system in (ours, other)]
            (interval,) = paired_interval(
                columns[0], columns[1], user_ids, resamples=bootstrap.resamples, seed=bootstrap.seed
            )
            found.append(PairedDifference(ours, other, metric, *interval.tolist()))
    return found


def compared(own: Values, theirs: Values, column: int) -> list[tuple[str, str]]:
    """Each of our systems with the peer that is best by this figure; the ranked order also with the channel that is
    best by it, and with the blended order: what ranking adds."""
    pairs = [(system, _best(theirs, column)) for system in own] if theirs else []
    channels = {system: values for system, values in own.items() if system not in WHOLE}
    if RANKED in own:
        pairs += [(RANKED, _best(channels, column))] if channels else []
        pairs += [(RANKED, BLENDED)] if BLENDED in own else []
    return pairs


def _best(values: Values, column: int) -> str:
    return max(values, key=lambda system: float(values[system][:, column].mean()))
