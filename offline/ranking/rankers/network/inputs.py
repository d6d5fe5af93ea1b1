"""Labelled requests as tensors: the menu of the rank server, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.ranking_dataset import LabelledWindow
from recsys.domain import Ids

Menu = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""features, item_row, query_index, history_row, history_value, history_age, history_mask as numbers."""


@dataclass(frozen=True, slots=True)
class RankingBatch:
    """q requests with n candidates in all, m of which are shown."""

    menu: Menu
    shown: Tensor
    """int64[m]: positions of the shown candidates, ascending."""
    labels: Tensor
    """float32[m]."""
    ratings: Tensor
    """float32[m]; NaN where the candidate was not taken or not rated."""


class WindowRequests:
    """The requests of one window, with rows of the catalogue `item_ids`. Items that it lacks are row 0, whose
    vector the network has not learned from them."""

    def __init__(self, window: LabelledWindow, item_ids: Ids) -> None:
        self.samples = window.samples
        self.starts = np.cumsum(self.samples.groups) - self.samples.groups
        self._rows = np.maximum(window.rows_in(item_ids), 0)

    def batch(self, chosen: NDArray[np.int64], drawn: Sequence[NDArray[np.int64]] | None = None) -> RankingBatch:
        """The requests at `chosen` with all their candidates; `drawn` says per request which are shown, absent: all."""
        samples, groups = self.samples, self.samples.groups[chosen]
        spans = zip(self.starts[chosen], groups, strict=True)
        joined = np.concatenate([np.arange(start, start + n) for start, n in spans])
        order = np.repeat(np.arange(len(chosen)), groups)
        offsets = np.cumsum(groups) - groups
        shown = np.arange(len(joined))
        if drawn is not None:
            shown = np.concatenate([offset + part for offset, part in zip(offsets, drawn, strict=True)])
        menu = (
            torch.from_numpy(samples.features[joined]),
            torch.from_numpy(self._rows[samples.item_rows[joined]]),
            torch.from_numpy(order),
            *self._history(chosen),
        )
        labels = torch.from_numpy(samples.labels[joined[shown]].astype(np.float32))
        return RankingBatch(
            menu, torch.from_numpy(shown), labels, torch.from_numpy(np.array(samples.ratings[joined[shown]]))
        )

    def _history(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """row, value, age, mask [q, L], left-aligned, zeros where there is no event."""
        histories = self.samples.histories
        starts, ends = histories.indptr[chosen], histories.indptr[chosen + 1]
        width = max(int((ends - starts).max(initial=0)), 1)
        position = starts[:, None] + np.arange(width)[None, :]
        mask = position < ends[:, None]
        if not mask.any():
            return (torch.zeros(mask.shape, dtype=torch.int64), *(torch.zeros(mask.shape) for _ in range(3)))  # type: ignore[return-value]
        position = np.where(mask, position, starts.min())
        position = np.minimum(position, len(histories.rows) - 1)
        parts = (self._rows[histories.rows[position]], histories.values[position], histories.ages[position])
        rows, values, ages = (torch.from_numpy(np.where(mask, part, np.zeros(1, part.dtype))) for part in parts)
        return rows, values, ages, torch.from_numpy(mask.astype(np.float32))


def training_batches(
    requests: Sequence[WindowRequests],
    chosen: Sequence[NDArray[np.int64]],
    config: NetworkConfig,
    rng: np.random.Generator,
) -> Iterator[RankingBatch]:
    """One pass over the `chosen` requests of each window, in random order, each batch from one window.

    A request shows its relevant candidates, at most half of `config.candidates`, and others drawn from the rest.
    """
    parts = [
        (position, part)
        for position, rows in enumerate(chosen)
        for part in np.array_split(rng.permutation(rows), max(1, round(len(rows) / config.batch_size)))
        if len(part)
    ]
    for number in rng.permutation(len(parts)):
        position, part = parts[number]
        window = requests[position]
        yield window.batch(part, [_drawn(window, request, config.candidates, rng) for request in part])


def all_batches(requests: WindowRequests, size: int) -> Iterator[RankingBatch]:
    """All candidates of all requests that have any, in order."""
    some = np.flatnonzero(requests.samples.groups)
    for first in range(0, len(some), size):
        yield requests.batch(some[first : first + size])


def _drawn(window: WindowRequests, request: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions within the request, ascending."""
    start, count = int(window.starts[request]), int(window.samples.groups[request])
    relevant = window.samples.labels[start : start + count] > 0
    positives = rng.permutation(np.flatnonzero(relevant))[: n // 2]
    others = rng.permutation(np.flatnonzero(~relevant))[: n - len(positives)]
    return np.sort(np.concatenate([positives, others]))
