"""What training cost, from the receipts of steps: a reused step costs what it cost when it was made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from offline.steps.receipts import receipts_of
from offline.steps.workspace import Step

NOT_TRAINING = ("tables", "models", "evaluation")
"""Steps that belong to no model."""


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """Of all steps that made a model; None where a receipt has no cost."""

    cpu_seconds: float | None
    peak_memory_bytes: int | None


def cost_of(steps: Iterable[Step], also: Iterable[Path] = ()) -> TrainingCost:
    """Of `steps`, of the steps in the folders `also`, and of everything that they were made from, each counted once."""
    receipts = receipts_of([*(step.folder for step in steps), *also])
    kept = [receipt for receipt in receipts.values() if receipt["name"] not in NOT_TRAINING]
    if not kept or not all("cpu_seconds" in receipt for receipt in kept):
        return TrainingCost(None, None)
    seconds = sum(float(receipt["cpu_seconds"]) for receipt in kept)
    return TrainingCost(round(seconds, 3), max(int(receipt["peak_memory_bytes"]) for receipt in kept))
