"""What a comparison of losses found: what is committed, what the table and the page are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from offline.evaluation.results import Figure
from offline.metrics.text_table import aligned, markdown
from offline.studies.benchmark.machine import machine_text, versions_text
from offline.studies.benchmark.saved import load_result, save_result

FORMAT = 1
METRICS = ("ndcg@10", "hit_rate@10", "recall@10")
METRIC = METRICS[0]
"""What losses are compared by."""


@dataclass(frozen=True, slots=True)
class LossRow:
    """One tower with one loss, on validation."""

    tower: str
    loss: str
    negatives: str
    """What a chosen item is scored against."""
    usual: bool
    """Whether the tower is configured with it."""
    figures: Mapping[str, Figure]
    """By metric of `METRICS`."""
    share: float | None
    """Of `METRIC`: this loss's over that of the tower's usual loss; None where that one's is 0."""
    difference: Figure
    """Of `METRIC`: this loss's less that of the usual loss, paired by user."""
    epochs: int
    refit_epochs: int
    """Further ones, on the held-out events, too."""
    cpu_seconds: float | None
    """Of the training and its catalogue; of one that was killed, what came after."""


@dataclass(frozen=True, slots=True)
class LossResult:
    """All losses on one data set under one protocol."""

    protocol: str
    dataset: str
    targets: str
    group: str
    """Whose figures the rows have."""
    users: int
    requests: int
    catalogue: int
    rows: tuple[LossRow, ...]
    command: str
    date: str
    machine: dict[str, str | int | float]
    versions: dict[str, str]

    def save(self, path: Path) -> Path:
        """Writes the file; figures are rounded to six decimal places."""
        return save_result(path, asdict(self), number=FORMAT)

    @classmethod
    def load(cls, path: Path) -> LossResult:
        """Reads what `save` wrote; raises DataMalformed for anything else."""
        return load_result(path, cls._of, number=FORMAT)

    @classmethod
    def _of(cls, content: dict[str, Any]) -> LossResult:
        return cls(**{**content, "rows": tuple(_row_of(row) for row in content["rows"])})


def text_table(result: LossResult) -> str:
    """Aligned text under a title."""
    return "\n".join([f"{heading(result)}: {_counts(result)}", *aligned([_HEAD, *map(_cells, result.rows)])])


def losses_section(result: LossResult) -> str:
    """Command, table and machine as Markdown, without a heading."""
    return (
        f"{_counts(result)}.\n\n```sh\n{result.command}\n```\n\n"
        f"{markdown([_HEAD, *map(_cells, result.rows)])}\n\n"
        f"{result.date}, {machine_text(result.machine)}. {versions_text(result.versions)}.\n"
    )


_HEAD = ["tower", "loss", "negatives", "NDCG@10", "HR@10", "recall@10", "share", "less the usual", "epochs", "CPU s"]


def heading(result: LossResult) -> str:
    """Protocol, data set and targets."""
    return f"Losses on validation, {result.protocol}, {result.dataset}, targets {result.targets}"


def _counts(result: LossResult) -> str:
    return f"{result.users:,} {result.group}, {result.requests:,} requests, {result.catalogue:,} items"


def _cells(row: LossRow) -> list[str]:
    loss = f"{row.loss} (usual)" if row.usual else row.loss
    less = "" if row.usual else f"{row.difference.mean:+.4f} [{row.difference.low:+.4f}, {row.difference.high:+.4f}]"
    figures = [str(row.figures[metric]) for metric in METRICS]
    seconds = "" if row.cpu_seconds is None else f"{row.cpu_seconds:,.0f}"
    share = "" if row.share is None else f"{row.share:.3f}"
    epochs = f"{row.epochs} + {row.refit_epochs}"
    return [row.tower, loss, row.negatives, *figures, share, less, epochs, seconds]


def _row_of(row: dict[str, Any]) -> LossRow:
    figures = {metric: Figure(**figure) for metric, figure in row["figures"].items()}
    return LossRow(**{**row, "figures": figures, "difference": Figure(**row["difference"])})
