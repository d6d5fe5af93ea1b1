"""The result of one benchmark: what is committed, what the table and the page are made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from offline.evaluation.results import Figure
from offline.studies.benchmark.saved import load_result, save_result
from recsys.errors import DataError, DataMalformed

FORMAT = 1

Origin = Literal["published", "reference", "peer", "channel", "ours"]
QUOTED: tuple[Origin, ...] = ("published", "reference")
"""Origins of rows that no benchmark ran."""


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One system. What is not known is None; a system that was not run has no figures, and `note` gives the reason."""

    system: str
    origin: Origin
    figures: dict[str, Figure] | None = None
    """By `metric@K`; quoted figures have no interval: low and high equal the mean."""
    coverage: float | None = None
    """Share of the catalogue in some list's first ten positions."""
    popularity: float | None = None
    """Mean share of the catalogue that is less popular than a recommended item, first ten positions."""
    cpu_seconds: float | None = None
    """Training and tuning."""
    peak_memory_bytes: int | None = None
    note: str = ""
    """Where a published figure is from, which settings were used, or why there are no figures."""


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The systems that were run, on another group of users than that of the table."""

    group: str
    users: int
    requests: int
    rows: tuple[BenchmarkRow, ...]
    """Without costs: those of the table's rows."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Ours less another's over the same users: the best peer's, our best channel's, or our blended order's."""

    ours: str
    peer: str
    """The other system."""
    metric: str
    mean: float
    low: float
    high: float

    @property
    def pair(self) -> tuple[str, str]:
        """The names of the two systems, ours first."""
        return self.ours, self.peer

    @property
    def verdict(self) -> str:
        """What the interval shows."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no difference shown"


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One protocol on one data set with one kind of target."""

    protocol: str
    dataset: str
    targets: str
    group: str
    metrics: tuple[str, ...]
    users: int
    requests: int
    catalogue: int
    command: str
    date: str
    budget_minutes: float
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    rows: tuple[BenchmarkRow, ...]
    differences: tuple[PairedDifference, ...]
    remarks: tuple[str, ...] = ()
    """What a reader must know to read the figures."""
    moment: str = ""
    """When requests are made, where that is not the protocol's own: such a result is kept next to the usual one."""
    apart: tuple[GroupRows, ...] = ()
    """Warm and cold users apart where a protocol cuts time, less the group of `rows`."""

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return result_name(self.protocol, self.dataset, self.targets, self.moment)

    def overran(self, row: BenchmarkRow) -> bool:
        """Whether training and tuning of a system cost more than the budget."""
        return row.cpu_seconds is not None and row.cpu_seconds > self.budget_minutes * 60

    def ratio(self, difference: PairedDifference) -> float | None:
        """How many times the other system's figure ours is; None where that is 0."""
        made = {row.system: row.figures for row in self.rows if row.origin not in QUOTED and row.figures}
        ours, other = (made[system][difference.metric].mean for system in difference.pair)
        return ours / other if other else None

    def row(self, system: str) -> BenchmarkRow:
        """The row of one system; raises KeyError."""
        for row in self.rows:
            if row.system == system:
                return row
        raise KeyError(f"{system}: not among {[row.system for row in self.rows]}")

    def save(self, folder: Path) -> Path:
        """Writes `<name>.json` below `folder`; figures are rounded to six decimal places.

        Raises DataError where a result is there that has figures of systems which this one has none of.
        """
        path = folder / f"{self.name}.json"
        check_no_rows_lost(path, measured_systems(self.rows))
        return save_result(path, asdict(self), number=FORMAT)

    @classmethod
    def load(cls, path: Path) -> BenchmarkResult:
        """Reads what `save` wrote; raises DataMalformed for anything else."""
        return load_result(path, cls._of, number=FORMAT)

    @classmethod
    def _of(cls, content: dict[str, Any]) -> BenchmarkResult:
        content["rows"] = tuple(_row(row) for row in content["rows"])
        content["differences"] = tuple(PairedDifference(**difference) for difference in content["differences"])
        content["apart"] = tuple(_group(group) for group in content.get("apart", ()))
        return cls(**{**content, "metrics": tuple(content["metrics"]), "remarks": tuple(content["remarks"])})


def result_name(protocol: str, dataset: str, targets: str, moment: str) -> str:
    """The name of a result. Which systems were run is no part of it: one result has them all."""
    return f"{protocol}-{dataset}-{targets}{moment_suffix(moment)}"


def moment_suffix(moment: str) -> str:
    """The end of a name of what depends on the moment of requests; nothing for the protocol's own."""
    return f"-asked-at-{moment}" if moment else ""


def load_results(folder: Path) -> list[BenchmarkResult]:
    """All results below `folder`, in order of their names."""
    return [BenchmarkResult.load(path) for path in sorted(folder.glob("*.json"))]


def of_origin(rows: Sequence[BenchmarkRow], origin: Origin) -> list[BenchmarkRow]:
    """The rows of one origin, in order."""
    return [row for row in rows if row.origin == origin]


def measured_systems(rows: Sequence[BenchmarkRow]) -> frozenset[tuple[Origin, str]]:
    """Origin and name, a peer's without package and version, of the systems that were run and have figures."""
    return frozenset(
        (row.origin, row.system.partition(" (")[0]) for row in rows if row.figures and row.origin not in QUOTED
    )


def check_no_rows_lost(path: Path, systems: Collection[tuple[Origin, str]]) -> None:
    """Raises DataError where the result saved as `path` has figures of others than `systems`.

    A file that is no result of this format has nothing to lose: reading it asks to run its command again.
    """
    try:
        saved = measured_systems(BenchmarkResult.load(path).rows) if path.is_file() else frozenset()
    except DataMalformed:
        return
    lost = sorted(f"{system} ({origin})" for origin, system in saved - frozenset(systems))
    if lost:
        raise DataError(
            f"{path}: the result there has figures that this one has not: {', '.join(lost)}; run all of its systems in "
            "one command (--models), or name another folder with --results"
        )


def _row(content: dict[str, object]) -> BenchmarkRow:
    figures = content.pop("figures")
    if isinstance(figures, dict):
        return BenchmarkRow(**content, figures={metric: Figure(**figure) for metric, figure in figures.items()})  # type: ignore[arg-type]
    return BenchmarkRow(**content)  # type: ignore[arg-type]


def _group(content: dict[str, Any]) -> GroupRows:
    return GroupRows(**{**content, "rows": tuple(_row(row) for row in content["rows"])})
