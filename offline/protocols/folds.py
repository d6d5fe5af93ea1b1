"""What a plan is made of.

choosing   the ranker learns from these folds while the number of rounds is chosen …
judging    … on this one: its users, or its time, are apart from those of `choosing`
validation every other choice (settings, blend) is made on this fold; nothing is ever chosen on `test`
evaluation what the test knows, and the folds that its ranker learns from
production what serves: everything is known; absent where a protocol has no meaning in time
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from offline.dataset.interactions import Dataset, Interactions, Snapshot
from offline.dataset.splits import Split
from offline.protocols.targets import TargetKind, Targets
from recsys.errors import DataError


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What recall may learn from at one place of a plan: `dataset.snapshot(cutoff)`, and nothing else."""

    name: str
    """Unique in the plan."""
    dataset: Dataset
    cutoff: int
    earlier: Knowledge | None = None
    """Knowledge that this one contains, whose towers are continued."""


def known_as(title: str, dataset: Dataset, events: Interactions) -> Dataset:
    """`dataset` with these events only; the name tells it apart, also in the keys of training steps."""
    return replace(dataset, name=f"{dataset.name} ({title})", interactions=events)


class Ask(Protocol):
    """Makes the targets of a fold. `max_users` draws that many of its users with `seed`."""

    def __call__(
        self, snapshot: Snapshot, kind: TargetKind, *, max_users: int | None = None, seed: int = 0
    ) -> Targets: ...


@dataclass(frozen=True, slots=True)
class Fold:
    """Requests of one part of the data, asked of models that know another part of it."""

    name: str
    """Unique in the plan."""
    knowledge: Knowledge
    ask: Ask
    identity: tuple[int | str, ...]
    """What, beside the knowledge, decides the targets: part of the keys of the steps that use them."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A bundle: what its recall knows, and what its ranker learns from."""

    knowledge: Knowledge
    training: tuple[Fold, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One protocol on one data set."""

    protocol: str
    dataset: Dataset
    """What the protocol keeps of the data set."""
    choosing: tuple[Fold, ...]
    judging: Fold
    validation: Fold
    evaluation: Stage
    test: Fold
    kinds: tuple[TargetKind, ...]
    """The kinds of targets that the test fold can be asked for; the first is the protocol's own."""
    labels: TargetKind
    """The kind that the ranker learns from and that choices are made on."""
    production: Stage | None = None
    split: Split | None = None
    """Where time is cut; None where the protocol does not cut time."""

    def check_kind(self, kind: TargetKind) -> None:
        """Raises DataError where the test fold has no such targets."""
        if kind not in self.kinds:
            raise DataError(
                f"targets {kind!r}: {self.protocol} has {' and '.join(self.kinds)}; choose one of them with --targets"
            )

    def not_served(self) -> DataError:
        """What to raise where a bundle is wanted that must not be."""
        return DataError(
            f"{self.protocol} has no bundle to serve: its models may know the future of a request; "
            "publish and serve with --split.protocol temporal or time-to-split"
        )

    def folds(self) -> Iterable[Fold]:
        """Every fold, each once, in the order of the plan."""
        stages = [stage for stage in (self.evaluation, self.production) if stage is not None]
        all_of_them = [*self.choosing, self.judging, self.validation]
        all_of_them += [fold for stage in stages for fold in stage.training]
        return {fold.name: fold for fold in [*all_of_them, self.test]}.values()
