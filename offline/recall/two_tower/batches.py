"""Training examples: a user's events up to a cut, and what the user did after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from offline.dataset.interactions import TrainingEvents
from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.model import Histories
from offline.recall.two_tower.trend import SECONDS_PER_DAY, Trend
from recsys.domain import Ids

_SORTED_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Examples:
    """n cuts through histories: the events start:cut are known at `as_of`, the events cut:end are not."""

    starts: Ids
    cuts: Ids
    ends: Ids
    as_of: Ids

    def __len__(self) -> int:
        return len(self.cuts)

    def take(self, index: NDArray[np.int64]) -> Examples:
        """The examples at `index`, in that order."""
        return Examples(self.starts[index], self.cuts[index], self.ends[index], self.as_of[index])


@dataclass(frozen=True, slots=True)
class Epoch:
    """The examples of one pass, and the later items sampled for each."""

    examples: Examples
    targets: NDArray[np.int32]
    """int32[n, targets]: catalogue rows."""
    target_weights: NDArray[np.float32]
    """float32[n, targets]: event weights; 0 pads."""

    def target_counts(self, n_items: int) -> NDArray[np.int64]:
        """int64[items]: how often each item is a target."""
        return np.bincount(self.targets[self.target_weights > 0], minlength=n_items)


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's q examples."""

    histories: Histories
    targets: NDArray[np.int64]
    """int64[q, targets]: catalogue rows."""
    target_weights: NDArray[np.float32]
    moments: NDArray[np.int64]
    """int64[q]: the moment of the trend that the example may know."""


def draw_epoch(events: TrainingEvents, trend: Trend, config: TwoTowerConfig, rng: np.random.Generator) -> Epoch:
    """Draws one pass: cuts just before an event and cuts at moments common to all users, later ones more often.

    Some examples lose their history, which trains the cold vector.
    """
    n_users = int(np.count_nonzero(np.diff(events.indptr)))
    pooled = config.pooled
    n = min(max(n_users * pooled.examples_per_user, pooled.min_examples), pooled.max_examples)
    n_moment = round(n * pooled.moment_share)
    half_life = pooled.recency_half_life_days * SECONDS_PER_DAY
    by_event = _cut_before_events(events, n - n_moment, half_life, rng)
    by_moment = _cut_at_moments(events, trend, n_moment, half_life, rng)
    drawn = Examples(*(np.concatenate(pair) for pair in zip(_arrays(by_event), _arrays(by_moment), strict=True)))
    cold = rng.random(len(drawn)) < pooled.cold_fraction
    return _with_targets(events, replace(drawn, starts=np.where(cold, drawn.cuts, drawn.starts)), pooled.targets, rng)


def cut_at(events: TrainingEvents, moment: int) -> Examples:
    """One example per user with events both up to and after `moment`, in order of user row."""
    known = np.bincount(events.user_rows[events.timestamps <= moment], minlength=len(events.indptr) - 1)
    starts, ends = events.indptr[:-1], events.indptr[1:]
    cuts = starts + known
    both = np.flatnonzero((cuts > starts) & (cuts < ends))
    return Examples(starts[both], cuts[both], ends[both], np.full(len(both), moment, np.int64))


def batches(
    events: TrainingEvents, epoch: Epoch, trend: Trend, *, config: TwoTowerConfig, rng: np.random.Generator
) -> Iterator[Batch]:
    """Cuts an epoch into batches in random order; examples of like length share one, so little is padding."""
    size, order = config.pooled.batch_size, rng.permutation(len(epoch.examples))
    lengths = np.minimum(epoch.examples.cuts - epoch.examples.starts, config.history_limit)
    index: list[NDArray[np.int64]] = []
    for start in range(0, len(order), size * _SORTED_BATCHES):
        group = order[start : start + size * _SORTED_BATCHES]
        by_length = group[np.argsort(lengths[group], kind="stable")]
        index += [by_length[at : at + size] for at in range(0, len(by_length), size)]
    for number in rng.permutation(len(index)):
        rows = index[number]
        examples = epoch.examples.take(rows)
        yield Batch(
            gather_histories(events, examples, config.history_limit),
            epoch.targets[rows].astype(np.int64),
            epoch.target_weights[rows],
            trend.before(examples.as_of),
        )


def gather_histories(events: TrainingEvents, examples: Examples, limit: int) -> Histories:
    """The last `limit` known events of each example, padded at the left to the longest of them."""
    lengths = np.minimum(examples.cuts - examples.starts, limit)
    width = max(int(lengths.max(initial=0)), 1)
    offset = np.arange(width)[None, :] - width
    present = offset >= -lengths[:, None]
    position = np.where(present, examples.cuts[:, None] + offset, 0)
    ages = examples.as_of[:, None] - events.timestamps[position]
    return Histories(
        torch.from_numpy(np.where(present, events.item_rows[position], 0).astype(np.int64)),
        torch.from_numpy(np.where(present, events.values[position], np.float32(np.nan))),
        torch.from_numpy(np.where(present, ages, 0).astype(np.float32)),
        torch.from_numpy(np.where(present, events.weights[position], np.float32(0))),
    )


def _with_targets(events: TrainingEvents, examples: Examples, n: int, rng: np.random.Generator) -> Epoch:
    """Takes all later events where there are at most `n`, else `n` random ones of them."""
    later = (examples.ends - examples.cuts)[:, None]
    columns = np.arange(n)[None, :]
    random = (rng.random((len(later), n)) * later).astype(np.int64)
    sampled = np.where(later <= n, np.minimum(columns, later - 1), random)
    position = examples.cuts[:, None] + sampled
    return Epoch(
        examples, events.item_rows[position], np.where(columns < later, events.weights[position], np.float32(0))
    )


def _cut_before_events(events: TrainingEvents, n: int, half_life: float, rng: np.random.Generator) -> Examples:
    """Cuts before random events; every user is as likely as recent, however many events the user has."""
    counts = np.diff(events.indptr)
    latest = events.timestamps[np.maximum(events.indptr[1:] - 1, 0)]
    users = rng.choice(len(counts), n, p=_recency(latest, half_life, counts > 0))
    starts, ends = events.indptr[users], events.indptr[users + 1]
    cuts = starts + (rng.random(n) * (ends - starts)).astype(np.int64)
    return Examples(starts, cuts, ends, events.timestamps[cuts])


def _cut_at_moments(
    events: TrainingEvents, trend: Trend, n: int, half_life: float, rng: np.random.Generator
) -> Examples:
    """Draws from all pairs of a user and a moment with events of the user both up to and after it."""
    n_moments = len(trend.moments)
    known_from = np.searchsorted(trend.moments, events.timestamps, side="left")
    cumulative = np.concatenate([[0.0], np.cumsum(_recency(trend.moments, half_life, trend.moments >= 0))])
    users = np.flatnonzero(np.diff(events.indptr))
    first, last = (known_from[at] for at in (events.indptr[users], events.indptr[users + 1] - 1))
    mass = cumulative[last] - cumulative[first]
    if not mass.sum() > 0:
        return Examples(*(np.empty(0, np.int64) for _ in range(4)))
    chosen = rng.choice(len(users), n, p=mass / mass.sum())
    point = cumulative[first[chosen]] + rng.random(n) * mass[chosen]
    moments = np.clip(np.searchsorted(cumulative, point, side="right") - 1, first[chosen], last[chosen] - 1)
    keys = events.user_rows.astype(np.int64) * (n_moments + 1) + known_from
    cuts = np.searchsorted(keys, users[chosen] * (n_moments + 1) + moments, side="right")
    starts, ends = events.indptr[users[chosen]], events.indptr[users[chosen] + 1]
    return Examples(starts, cuts, ends, trend.moments[moments])


def _recency(timestamps: Ids, half_life: float, eligible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Probabilities that halve with every half-life of age."""
    weights = np.where(eligible, 0.5 ** ((timestamps.max(initial=0) - timestamps) / half_life), 0.0)
    share: NDArray[np.float64] = weights / weights.sum()
    return share


def _arrays(examples: Examples) -> tuple[Ids, Ids, Ids, Ids]:
    return examples.starts, examples.cuts, examples.ends, examples.as_of
