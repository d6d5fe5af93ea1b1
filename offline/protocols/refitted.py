"""The shape that leave-one-out and the random split share: fit, validate, refit with the validation part, test.

Only the validation part is labelled, so while the ranker is selected it learns from some of its users and is evaluated
on the others; its final training uses all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.dataset.interactions import Dataset, Interactions
from offline.dataset.splits import SplitConfig
from offline.protocols.folds import BundleFit, Fold, Plan, TrainingView, known_as
from offline.protocols.held_out import HeldOut, Moment, drawn_share
from offline.protocols.targets import TargetKind

FIT, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Parts:
    """Which part each event of a data set belongs to, and which of the held-out ones should be found."""

    events: Interactions
    part: NDArray[np.int8]
    """int8[n]: `FIT`, `VALIDATION` or `TEST`."""
    relevant: NDArray[np.bool_]
    """bool[n]."""

    def until(self, part: int) -> Interactions:
        """The events of all parts up to this one."""
        return self.events.take(self.part <= part)

    def wanted(self, part: int) -> Interactions:
        """What should be found of this part."""
        return self.events.take((self.part == part) & self.relevant)


def plan_refitted(dataset: Dataset, parts: Parts, config: SplitConfig, *, moment: Moment, kind: TargetKind) -> Plan:
    """The plan of a data set whose events are in `parts`.

    Recall is trained on the fit part while choices are made, on fit and validation for the test; histories likewise.
    The items of `dataset` are the catalogue of both, its last event the cut-off.
    """
    end, title = int(dataset.interactions.timestamps[-1]), f"{config.protocol}, seed {config.seed}"
    fitted = TrainingView("fit", known_as(f"{title}, fit", dataset, parts.until(FIT)), end)
    refitted = TrainingView("refit", known_as(f"{title}, refit", dataset, parts.until(VALIDATION)), end, fitted)
    wanted = HeldOut(parts.until(FIT), parts.wanted(VALIDATION), moment)
    users = np.unique(wanted.held.user_ids)
    selection_users = drawn_share(users, config.selection_validation_share, config.seed)

    def fold(name: str, view: TrainingView, held_out: HeldOut) -> Fold:
        identity = (config.protocol, config.seed, str(config.selection_validation_share), moment, name)
        return Fold(name, view, held_out, identity)

    validation = fold("validation", fitted, wanted)
    return Plan(
        config.protocol,
        dataset,
        selection_train=(fold("selection-train", fitted, wanted.among(np.setdiff1d(users, selection_users))),),
        selection_validation=fold("selection-validation", fitted, wanted.among(selection_users)),
        validation=validation,
        evaluation=BundleFit(refitted, (validation,)),
        test=fold("test", refitted, HeldOut(parts.until(VALIDATION), parts.wanted(TEST), moment)),
        kinds=(kind,),
        labels=kind,
    )
