"""What the offline jobs have done."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path

from offline.steps.workspace import RECEIPT


def finished_steps(home: Path) -> dict[str, int]:
    """By name of the step, when it was done; `home` is the folder of one data set."""
    return {path.parent.name: path.stat().st_mtime_ns for path in home.glob(f"work/*/{RECEIPT}")}


def stages(steps: AbstractSet[str]) -> set[str]:
    """What steps are of: their names without the digests."""
    return {name.partition("-")[0] for name in steps}
