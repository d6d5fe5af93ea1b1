"""Figures that others published for a protocol, and those of reference runs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from offline.dataset.splits import Protocol
from offline.evaluation.results import Figure
from offline.protocols.targets import TargetKind
from offline.studies.benchmark.results import BenchmarkRow

FILE = Path(__file__).with_name("published.toml")


class PublishedFigure(BaseModel):
    """One entry of `published.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol
    targets: TargetKind
    dataset: str = Field(min_length=1, description="what the names of its data sets begin with")
    origin: Literal["published", "reference"] = "published"
    system: str
    source: str = Field(min_length=1)
    coverage: float | None = Field(default=None, description="at 10")
    values: dict[str, float]


def published_rows(protocol: str, dataset: str, kind: str) -> list[BenchmarkRow]:
    """The rows of this protocol, data set and kind of targets, in order of the file."""
    entries = [PublishedFigure(**entry) for entry in tomllib.loads(FILE.read_text("utf-8"))["figure"]]
    return [
        BenchmarkRow(
            entry.system,
            entry.origin,
            {metric: Figure(value, value, value) for metric, value in entry.values.items()},
            entry.coverage,
            note=entry.source,
        )
        for entry in entries
        if (entry.protocol, entry.targets) == (protocol, kind) and dataset.startswith(entry.dataset)
    ]
