"""Where time is cut: what trains, what labels the ranker, what validates and what tests."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from offline.dataset.interactions import Dataset, Interactions
from recsys.errors import DataError

log = logging.getLogger(__name__)

Protocol = Literal["temporal", "time-to-split", "leave-one-out", "strong-generalisation", "random-60-20-20"]


class SplitConfig(BaseModel):
    """Which part of the events trains, labels, validates and tests. Fractions are of all events, in order of time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol = Field(
        default="temporal",
        description="temporal: all events; time-to-split: only the iterative 5-core (RecSys'25, Time to Split); the "
        "others have no cut in time: they are evaluated to compare with published figures, never served",
    )
    windows: tuple[float, ...] = Field(
        default=(0.5, 0.6, 0.7), description="cut-offs at which the ranker's training candidates are made"
    )
    validation: float = Field(default=0.8, gt=0, lt=1, description="T1: later events choose every hyper-parameter")
    test: float = Field(default=0.9, gt=0, lt=1, description="T2: later events test; nothing is chosen on them")
    core: int = Field(default=5, ge=1, description="minimum number of events per user and per item, for time-to-split")
    enough_users: int = Field(
        default=3_000,
        ge=0,
        description="the earliest windows are left out where later ones have so many users with events on both sides "
        "of the cut-off, counted at each: a large log needs no more; 0: no window at all",
    )
    labels: Literal["all", "successive", "last"] = Field(
        default="all", description="targets of the windows that label the ranker and of validation, where time is cut"
    )
    selection_validation_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="share of the validation users that the ranker's rounds are selected on; the others train it "
        "(leave-one-out, random-60-20-20)",
    )
    moment: Literal["target", "history"] = Field(
        default="history",
        description="leave-one-out: when a request is made: at the time of the last event before its target, which is "
        "all that models without time can know, or at that of the target, as for a server",
    )
    seed: int = Field(
        default=1, ge=0, description="seed of a protocol's random draws: ratings, users that the ranker is selected on"
    )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        fractions = (0.0, *self.windows, self.validation, self.test)
        if any(later <= earlier for earlier, later in pairwise(fractions)):
            raise ValueError(f"0 < windows < validation < test must ascend, found {fractions[1:]}")
        return self


@dataclass(frozen=True, slots=True)
class Window:
    """Events later than `cutoff`, up to and including `until`; lists are made with what was known at `cutoff`."""

    cutoff: int
    until: int


@dataclass(frozen=True, slots=True)
class Split:
    """One data set, cut in time."""

    dataset: Dataset
    """What the protocol keeps of the data set."""
    earlier_cutoffs: tuple[int, ...]
    """Moments before T1 at which recall models are trained to make the ranker's candidates, ascending."""
    validation: Window
    """(T1, T2]."""
    test: Window
    """(T2, end]."""
    left_out: int = 0
    """How many earlier moments the ranker does without, because it has enough users."""

    @property
    def cutoffs(self) -> tuple[int, ...]:
        """Every moment at which recall models are trained: the earlier ones, T1 and T2, ascending."""
        return (*self.earlier_cutoffs, self.validation.cutoff, self.test.cutoff)

    @property
    def test_events(self) -> Interactions:
        """What users did after T2, in order of time."""
        return self.dataset.interactions.between(self.test.cutoff, self.test.until)

    @property
    def sampled(self) -> tuple[str, ...]:
        """A sentence on what the ranker does without; none where it has all."""
        used, all_ = len(self.earlier_cutoffs), len(self.earlier_cutoffs) + self.left_out
        return (f"ranker: a sample, the latest {used} of {all_} windows before T1",) if self.left_out else ()

    def labelled_until(self, moment: int) -> tuple[Window, ...]:
        """A window from every cut-off before `moment` up to it: what the ranker may learn on when `moment` is known.

        T1 while rounds are chosen, T2 for the evaluation bundle, the end of the data for the production bundle. The
        windows overlap on purpose: the test looks far ahead, and so does a label window that ends at `moment`.
        """
        return tuple(Window(cutoff, moment) for cutoff in self.cutoffs if cutoff < moment)


def split(dataset: Dataset, config: SplitConfig) -> Split:
    """Cuts `dataset` at quantiles of time. Events at a cut-off itself belong before it.

    Cut-offs that fall on the same moment are joined. Raises DataError where T1, T2 and the end are not three moments.
    """
    if config.protocol == "time-to-split":
        dataset = keep(dataset, iterative_core(dataset.interactions, config.core))
    events = dataset.interactions
    if not len(events):
        raise DataError(f"{dataset.name}: no events left to split; ingest more data or lower the core")
    first, second = events.quantile(config.validation), events.quantile(config.test)
    end = int(events.timestamps[-1])
    if not first < second < end:
        raise DataError(
            f"{dataset.name}: the {config.validation} and {config.test} quantiles of time are {first} and {second}, "
            f"the end {end}: a split needs three different moments; choose other fractions"
        )
    earlier = sorted({events.quantile(fraction) for fraction in config.windows})
    wanted = enough_cutoffs(events, [moment for moment in earlier if moment < first], first, config.enough_users)
    left_out = sum(moment < first for moment in earlier) - len(wanted)
    made = Split(dataset, wanted, Window(first, second), Window(second, end), left_out)
    for note in made.sampled:
        log.info("%s", note)
    return made


def enough_cutoffs(events: Interactions, cutoffs: Sequence[int], until: int, users: int) -> tuple[int, ...]:
    """The latest of `cutoffs`, ascending: as many as it takes for `users` users who are known at one and active between
    it and `until`, counted at each cut-off.

    Such users are what the ranker learns most from, and every cut-off costs a training of all recall models.
    """
    found = 0
    for number, cutoff in enumerate(reversed(cutoffs)):
        if found >= users:
            return tuple(cutoffs[len(cutoffs) - number :])
        found += len(np.intersect1d(events.until(cutoff).user_ids, events.between(cutoff, until).user_ids))
    return tuple(cutoffs)


def keep(dataset: Dataset, events: Interactions) -> Dataset:
    """`dataset` with these events only, and the items that they are about."""
    return replace(
        dataset, interactions=events, items=dataset.items.take(np.isin(dataset.items.item_ids, events.item_ids))
    )


def iterative_core(events: Interactions, min_events: int) -> Interactions:
    """Drops users and items with fewer than `min_events` events, again and again until none is left."""
    while len(events):
        kept = np.ones(len(events), np.bool_)
        for ids in (events.user_ids, events.item_ids):
            _, rows, counts = np.unique(ids, return_inverse=True, return_counts=True)
            kept &= counts[rows] >= min_events
        if kept.all():
            break
        events = events.take(kept)
    return events
