"""Training sequences: windows of users' histories, each position of which is asked for the event that follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offline.dataset.interactions import TrainingEvents
from offline.recall.two_tower.model import Histories
from recsys.domain import Ids

_BUCKET = 8
"""Windows whose lengths differ by less than this may share a batch in any order, so that batches differ by epoch."""


@dataclass(frozen=True, slots=True)
class Windows:
    """n windows: each reads the events starts:ends - 1, and the event after each one is its target."""

    starts: Ids
    ends: Ids

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, index: NDArray[np.int64]) -> Windows:
        """The windows at `index`, in that order."""
        return Windows(self.starts[index], self.ends[index])

    @property
    def lengths(self) -> Ids:
        """int64[n]: events that each window reads."""
        return self.ends - self.starts - 1


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """One step's w windows, padded at the left to L events."""

    histories: Histories
    """Ages are those at the window's last target."""
    targets: Tensor
    """int64[w, L]: the catalogue row of the event after each one."""
    present: Tensor
    """bool[w, L]: whether there is an event."""
    first_rows: Tensor
    """int64[f]: first items of the users whose history begins in this batch; the cold vector is asked for them."""

    @property
    def target_rows(self) -> Tensor:
        """int64[n]: the catalogue rows that are asked for, those of events before first items."""
        return torch.cat([self.targets[self.present], self.first_rows])


def draw_windows(events: TrainingEvents, limit: int, rng: np.random.Generator) -> Windows:
    """Cuts every history, from its end, into windows of at most `limit` events to read.

    The latest window of a longer history has a random length from half of `limit` up, so that the cuts differ by epoch.
    Every event but the first of a user is the target of exactly one position.
    """
    begins, ends = events.indptr[:-1], events.indptr[1:]
    several = np.flatnonzero(ends - begins > 1)
    begins, ends = begins[several], ends[several]
    targets = ends - begins - 1
    latest = np.where(targets > limit, rng.integers(limit // 2, limit + 1, len(ends)), targets).clip(1)
    counts = 1 - (latest - targets) // limit
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    high = np.repeat(ends, counts) - np.where(number > 0, np.repeat(latest, counts) + (number - 1) * limit, 0)
    size = np.where(number > 0, limit, np.repeat(latest, counts))
    return Windows(np.maximum(high - size - 1, np.repeat(begins, counts)), high)


def pack(windows: Windows, events_per_step: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Groups of windows of like length, at most `events_per_step` events each when padded, in random order."""
    lengths = windows.lengths
    order = np.argsort(lengths + rng.random(len(lengths)) * _BUCKET, kind="stable")
    groups: list[NDArray[np.int64]] = []
    first, widest = 0, 0
    for at, length in enumerate(lengths[order].tolist()):
        if at > first and max(widest, length) * (at - first + 1) > events_per_step:
            groups.append(order[first:at])
            first, widest = at, 0
        widest = max(widest, length)
    groups += [order[first:]] if len(order) else []
    return [groups[number] for number in rng.permutation(len(groups))]


def gather_windows(events: TrainingEvents, windows: Windows) -> SequenceBatch:
    """The events of `windows`, padded at the left."""
    width = max(int(windows.lengths.max(initial=0)), 1)
    position = windows.ends[:, None] - 1 - np.arange(width, 0, -1)[None, :]
    present = position >= windows.starts[:, None]
    position = np.where(present, position, windows.starts[:, None])
    ages = events.timestamps[windows.ends - 1][:, None] - events.timestamps[position]
    histories = Histories(
        torch.from_numpy(np.where(present, events.item_rows[position], 0).astype(np.int64)),
        torch.from_numpy(np.where(present, events.values[position], np.float32(np.nan))),
        torch.from_numpy(np.where(present, ages, 0).astype(np.float32)),
        torch.from_numpy(np.where(present, events.weights[position], np.float32(0))),
    )
    targets = np.where(present, events.item_rows[position + 1], 0).astype(np.int64)
    beginning = np.isin(windows.starts, events.indptr[:-1])
    firsts = torch.from_numpy(events.item_rows[windows.starts[beginning]].astype(np.int64))
    return SequenceBatch(histories, torch.from_numpy(targets), torch.from_numpy(present), firsts)
