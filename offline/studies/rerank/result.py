"""What re-ranking for coverage bought and cost: what is committed, what the table and the page are made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from offline.evaluation.results import Figure
from offline.metrics.text_table import aligned, markdown
from offline.studies.benchmark.machine import machine_text, versions_text
from offline.studies.benchmark.results import moment_suffix
from offline.studies.benchmark.saved import load_result, save_result

FORMAT = 2


@dataclass(frozen=True, slots=True)
class RerankRow:
    """One order of the lists, on the test."""

    system: str
    ndcg: Figure
    hit_rate: Figure
    coverage: float
    popularity: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One setting on validation, where one is chosen."""

    settings: str
    """As flags; empty: as ranked."""
    ndcg: Figure
    coverage: float


@dataclass(frozen=True, slots=True)
class RerankResult:
    """One protocol on one data set with one kind of target. All figures are of the first ten positions."""

    protocol: str
    dataset: str
    targets: str
    coverage: float
    """The coverage that was asked for, on validation."""
    settings: str
    """What validation chose, as flags; empty: the ranked order covers enough."""
    users: int
    requests: int
    catalogue: int
    rows: tuple[RerankRow, ...]
    """The chosen setting's, then the served order without it, then single channels."""
    curve: tuple[CurvePoint, ...]
    """In order of the settings that were tried."""
    command: str
    date: str
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    moment: str = ""
    """When requests are made, where that is not the protocol's own: such a result is kept next to the usual one."""

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"rerank-{self.protocol}-{self.dataset}-{self.targets}{moment_suffix(self.moment)}"

    def save(self, folder: Path) -> Path:
        """Writes `<name>.json` below `folder`; figures are rounded to six decimal places."""
        return save_result(folder / f"{self.name}.json", asdict(self), number=FORMAT)

    @classmethod
    def load(cls, path: Path) -> RerankResult:
        """Reads what `save` wrote; raises DataMalformed for anything else."""
        return load_result(path, cls._of, number=FORMAT)

    @classmethod
    def _of(cls, content: dict[str, Any]) -> RerankResult:
        content["rows"] = tuple(RerankRow(**_figures(row, "ndcg", "hit_rate")) for row in content["rows"])
        content["curve"] = tuple(CurvePoint(**_figures(point, "ndcg")) for point in content["curve"])
        return cls(**content)


def text_table(result: RerankResult) -> str:
    """Aligned text: title, rows, what was chosen."""
    cells = [_HEAD, *(_cells(row) for row in result.rows)]
    return "\n".join([f"{heading(result)}: {_counts(result)}", *aligned(cells), _chosen(result)])


def rerank_section(result: RerankResult) -> str:
    """Command, table, choice, curve and machine as Markdown, without a heading."""
    curve = [
        [f"`{point.settings}`" if point.settings else "as ranked", str(point.ndcg), f"{point.coverage:.3f}"]
        for point in result.curve
    ]
    return (
        f"{_counts(result)}.\n\n```sh\n{result.command}\n```\n\n"
        f"{markdown([_HEAD, *map(_cells, result.rows)])}\n\n{_chosen(result)}\n\n"
        "The curve on validation, on which the setting was chosen:\n\n"
        f"{markdown([_CURVE_HEAD, *curve])}\n\n"
        f"{result.date}, {machine_text(result.machine)}. {versions_text(result.versions)}.\n"
    )


def heading(result: RerankResult) -> str:
    """Protocol, data set, targets, and the moment of requests where it is not the protocol's own."""
    moment = f", asked at the time of the {result.moment}" if result.moment else ""
    return f"NDCG and coverage, {result.protocol}, {result.dataset}, targets {result.targets}{moment}"


_HEAD = ["order", "NDCG@10", "HR@10", "coverage@10", "popularity@10", "note"]
_CURVE_HEAD = ["settings", "NDCG@10", "coverage@10"]


def _counts(result: RerankResult) -> str:
    return f"{result.users:,} warm users, {result.requests:,} requests, {result.catalogue:,} items"


def _chosen(result: RerankResult) -> str:
    what = f"`{result.settings}`" if result.settings else "no re-ranking"
    return f"Chosen on validation, the highest NDCG@10 among those with coverage@10 of {result.coverage:g}: {what}."


def _cells(row: RerankRow) -> list[str]:
    figures = [str(row.ndcg), str(row.hit_rate), f"{row.coverage:.3f}", f"{row.popularity:.3f}"]
    return [row.system, *figures, row.note]


def _figures(content: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**content, **{name: Figure(**content[name]) for name in names}}
