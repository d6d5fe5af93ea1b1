"""The result of an evaluation, on screen, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from offline.metrics.text_table import aligned, markdown
from offline.ranking.rankers.choice import RankerChoice

MIN_WARM_USERS = 300
"""With fewer warm test users, differences between systems are noise."""
HEADLINE = ("ndcg@10", "hit_rate@10", "recall@10", "recall@50", "map@10", "mrr@10", "precision@10")


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean with its 95 % bootstrap interval over users."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True, slots=True)
class SystemRow:
    """One system on one group of users."""

    system: str
    group: str
    """`warm`: with events before the cut-off; `cold`: without."""
    users: int
    requests: int
    figures: Mapping[str, Figure]
    """By `metric@K`."""
    coverage: Mapping[int, float]
    """By K: share of the catalogue that some list shows in its first K positions."""
    popularity: Mapping[int, float]
    """By K: mean share of the catalogue that is less popular than a recommended item."""
    seconds: float
    """What the lists of all groups took."""
    too_few: bool
    """Whether there are too few users to compare systems."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All rows of one data set, one kind of target and one cut-off."""

    dataset: str
    kind: str
    cutoff: int
    catalogue_size: int
    rows: tuple[SystemRow, ...]
    choice: RankerChoice | None = None
    """Which ranker validation chose; None where the lists are not those of a workflow."""
    sampled: tuple[str, ...] = ()
    """What was learned or measured on a part of the data."""

    def row(self, system: str, group: str = "warm") -> SystemRow:
        """The row of one system and group; raises KeyError where there is none."""
        for row in self.rows:
            if (row.system, row.group) == (system, group):
                return row
        raise KeyError(f"{system}, {group}: not among {[(row.system, row.group) for row in self.rows]}")

    def headline(self) -> dict[str, float]:
        """The main figures, for the manifest: `system.group.metric`."""
        return {
            f"{row.system}.{row.group}.{metric}": round(row.figures[metric].mean, 6)
            for row in self.rows
            for metric in ("ndcg@10", "hit_rate@10", "recall@10")
        }

    def json(self) -> str:
        """Everything, as JSON."""
        return json.dumps({**asdict(self), "choice": self.choice and self.choice.facts()}, indent=1) + "\n"

    def table(self) -> str:
        """The headline figures as aligned text, for the screen."""
        cells = [self._head(), *(self._cells(row) for row in self.rows)]
        chosen = [f"ranker: {self.choice.sentence()}"] if self.choice else []
        return "\n".join([self._title(), *aligned(cells), *self._warnings(), *chosen, *self.sampled])

    def markdown(self) -> str:
        """The headline figures with intervals, what validation chose, then every metric at every cut."""
        lines = [f"# {self._title()}", "", markdown([self._head(), *map(self._cells, self.rows)])]
        lines += ["", *self._warnings(), "", "Brackets: 95 % bootstrap intervals over users. The full catalogue is"]
        lines += ["ranked, seen items are filtered, recall divides by the number of relevant items.", ""]
        if self.choice:
            lines += ["## Ranker, chosen on validation", "", f"{self.choice.sentence()}.", "", self.choice.table(), ""]
        if self.sampled:
            lines += ["## Samples", "", *(f"- {note}" for note in self.sampled), ""]
        metrics = list(self.rows[0].figures) if self.rows else []
        every = [
            [f"{row.system}, {row.group}", *(f"{row.figures[metric].mean:.4f}" for metric in metrics)]
            for row in self.rows
        ]
        lines += ["## All metrics", "", markdown([["", *metrics], *every])]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """Writes `<kind>.json`, `<kind>.md`, the manifest's figures and the screen's table into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.kind}.json").write_text(self.json(), encoding="utf-8")
        (folder / f"{self.kind}.md").write_text(self.markdown(), encoding="utf-8")
        (folder / "headline.json").write_text(json.dumps(self.headline(), indent=1), encoding="utf-8")
        (folder / "table.txt").write_text(self.table() + "\n", encoding="utf-8")

    def _title(self) -> str:
        return f"{self.dataset}, targets {self.kind}, cut-off {self.cutoff}, {self.catalogue_size} items"

    def _head(self) -> list[str]:
        return ["system", "users", "n", *HEADLINE, "coverage@10", "popularity@10", "seconds"]

    def _cells(self, row: SystemRow) -> list[str]:
        first = row.figures[HEADLINE[0]]
        figures = [str(first)]
        figures += [f"{row.figures[metric].mean:.4f}" for metric in HEADLINE[1:]]
        extras = [f"{row.coverage[10]:.3f}", f"{row.popularity[10]:.3f}", f"{row.seconds:.1f}"]
        return [row.system, row.group, str(row.users), *figures, *extras]

    def _warnings(self) -> list[str]:
        few = next((row for row in self.rows if row.too_few), None)
        if few is None:
            return []
        return [
            f"too few: {few.users} warm test users, {MIN_WARM_USERS} are the least that differences can be read from"
        ]
