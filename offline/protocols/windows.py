"""temporal and time-to-split: time is cut; models are trained on what came before, and later events are the targets.

A label fold goes from a cut-off to the moment up to which everything is known, so folds overlap on purpose: the test
looks far ahead, and so does a label window that ends at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass

from offline.dataset.interactions import Dataset, Snapshot
from offline.dataset.splits import SplitConfig, Window, split
from offline.protocols.folds import BundleFit, Fold, Plan, TrainingView
from offline.protocols.targets import TargetKind, Targets, targets_of


@dataclass(frozen=True, slots=True)
class _Later:
    """Targets in a window of time."""

    dataset: Dataset
    window: Window

    def __call__(self, snapshot: Snapshot, kind: TargetKind, *, max_users: int | None = None, seed: int = 0) -> Targets:
        return targets_of(kind, self.dataset, snapshot, self.window, max_users=max_users, seed=seed)


def plan_windows(dataset: Dataset, config: SplitConfig) -> Plan:
    """The plan of a data set that is cut at quantiles of time; raises DataError like `split`."""
    parts = split(dataset, config)
    first, second, end = parts.validation.cutoff, parts.test.cutoff, parts.test.until
    known: dict[int, TrainingView] = {}
    earlier = None
    for cutoff in (*parts.cutoffs, end):
        known[cutoff] = earlier = TrainingView(str(cutoff), parts.dataset, cutoff, earlier)

    def fold(window: Window) -> Fold:
        name = f"{window.cutoff}-{window.until}"
        return Fold(name, known[window.cutoff], _Later(parts.dataset, window), (window.cutoff, window.until))

    def labelled(moment: int) -> tuple[Fold, ...]:
        return tuple(fold(window) for window in parts.labelled_until(moment))

    validation = fold(parts.validation)
    return Plan(
        config.protocol,
        parts.dataset,
        selection_train=labelled(first),
        selection_validation=validation,
        validation=validation,
        evaluation=BundleFit(known[second], labelled(second)),
        test=fold(parts.test),
        kinds=("all", "successive", "last"),
        labels=config.labels,
        production=BundleFit(known[end], labelled(end)),
        split=parts,
    )
