"""How a channel turns past events into items and weights of evidence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from recsys.catalogue import Catalogue
from recsys.domain import EVENT_WEIGHTS, History, Scores

SECONDS_PER_DAY = 86_400.0


class ValueScale(BaseModel):
    """How a rating becomes evidence: linear from `floor` at `low` to 1 at `high`, clipped; 1 without a value.

    A rating below `least` is no evidence at all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(description="value that counts `floor`", allow_inf_nan=False)
    high: float = Field(description="value that counts in full; equal to `low`: every value does", allow_inf_nan=False)
    floor: float = Field(ge=0, le=1, description="evidence of the lowest value")
    least: float | None = Field(
        default=None, description="lowest value that is evidence; none: all", allow_inf_nan=False
    )

    def evidence(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n]: the evidence of each value."""
        counted = self._linear(values)
        return counted if self.least is None else np.where(values < self.least, np.float32(0), counted)

    def _linear(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.high <= self.low:
            return np.ones(len(values), np.float32)
        share = np.clip((values - np.float32(self.low)) / np.float32(self.high - self.low), 0, 1)
        return np.where(np.isnan(share), np.float32(1), self.floor + (1 - self.floor) * share).astype(np.float32)


def history_weights(
    history: History, catalogue: Catalogue, scale: ValueScale, half_life_days: float | None
) -> tuple[NDArray[np.int64], Scores]:
    """Distinct known rows of a history in ascending order, and the weight of each.

    An event weighs its type, times the evidence of its value, times 2^(-age / half-life) if there is a half-life;
    several events of one item add up to 1 at most. Age counts from the user's latest known event: counting it from the
    request would only scale all scores, and would underflow for a user who returns after years.
    """
    rows = catalogue.rows(history.item_ids)
    known = rows >= 0
    weights = EVENT_WEIGHTS[history.types[known]] * scale.evidence(history.values[known])
    if half_life_days is not None and known.any():
        times = history.timestamps[known]
        ages = (times.max() - times) / SECONDS_PER_DAY
        weights = weights * np.exp2(-ages / half_life_days)
    distinct, inverse = np.unique(rows[known], return_inverse=True)
    summed = np.bincount(inverse, weights=weights, minlength=len(distinct))
    return distinct, np.minimum(summed, 1).astype(np.float32)
