"""What a plan is made of.

selection_train       the ranker learns from these folds while its number of rounds is selected …
selection_validation  … on this one: its users, or its time, are disjoint from those of `selection_train`
validation            every other choice (settings, blend) is made on this fold; nothing is ever chosen on `test`
evaluation            the models of the test: what recall is trained on, and the folds that the ranker learns from
production            the models that serve, trained on everything; absent where a protocol does not follow time
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
class TrainingView:
    """What recall may be trained on in one part of a plan: `dataset.snapshot(cutoff)`, and nothing else."""

    name: str
    """Unique in the plan."""
    dataset: Dataset
    cutoff: int
    earlier: TrainingView | None = None
    """A view that this one contains; training continues from its towers."""


def known_as(title: str, dataset: Dataset, events: Interactions) -> Dataset:
    """`dataset` with these events only; the name distinguishes it, also in the keys of training steps."""
    return replace(dataset, name=f"{dataset.name} ({title})", interactions=events)


class Ask(Protocol):
    """Makes the targets of a fold. `max_users` draws that many of its users with `seed`."""

    def __call__(
        self, snapshot: Snapshot, kind: TargetKind, *, max_users: int | None = None, seed: int = 0
    ) -> Targets: ...


@dataclass(frozen=True, slots=True)
class Fold:
    """Requests of one part of the data, answered by models that were trained on another part."""

    name: str
    """Unique in the plan."""
    training_view: TrainingView
    ask: Ask
    identity: tuple[int | str, ...]
    """What decides the targets together with the view: part of the keys of the steps that use them."""


@dataclass(frozen=True, slots=True)
class BundleFit:
    """How one bundle is trained: what recall is trained on, and the folds that its ranker learns from."""

    training_view: TrainingView
    training: tuple[Fold, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One protocol on one data set."""

    protocol: str
    dataset: Dataset
    """What the protocol keeps of the data set."""
    selection_train: tuple[Fold, ...]
    selection_validation: Fold
    validation: Fold
    evaluation: BundleFit
    test: Fold
    kinds: tuple[TargetKind, ...]
    """The kinds of targets that the test fold can be asked for; the first is the protocol's own."""
    labels: TargetKind
    """The kind that the ranker learns from and that choices are made on."""
    production: BundleFit | None = None
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
            f"{self.protocol} has no bundle to serve: its models may have been trained on the future of a request; "
            "publish and serve with --split.protocol temporal or time-to-split"
        )

    def folds(self) -> Iterable[Fold]:
        """Every fold, each once, in the order of the plan."""
        fits = [fit for fit in (self.evaluation, self.production) if fit is not None]
        folds = [*self.selection_train, self.selection_validation, self.validation]
        folds += [fold for fit in fits for fold in fit.training]
        return {fold.name: fold for fold in [*folds, self.test]}.values()
