"""What was wrong with the input: all that was skipped, dropped or merely looked odd, so that nothing disappears."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from recsys.errors import DataMalformed

MAX_EXAMPLES = 5
"""How many rows are quoted for each reason."""


@dataclass
class Finding:
    """How often something was found, and its first examples."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, count: int, examples: Iterable[str]) -> None:
        """Counts `count` more; quotes as many of `examples` as there is room for."""
        self.count += count
        for example in examples:
            if len(self.examples) == MAX_EXAMPLES:
                return
            self.examples.append(example)


class Findings:
    """Collects findings while files are read; refuses the first unparseable line beyond `max_bad_lines`."""

    def __init__(self, max_bad_lines: int = 0) -> None:
        self.max_bad_lines = max_bad_lines
        self.bad_lines = Finding()
        self.dropped: dict[str, Finding] = {}
        self.warnings: list[str] = []
        self.rows_read: dict[str, int] = {}

    def bad_line(self, place: str, why: str, *, lines: int = 1) -> None:
        """Notes `lines` unparseable lines at `place` ("file:line"). Raises DataMalformed when they are too many."""
        self.bad_lines.add(lines, [f"{place}: {why}"])
        if self.bad_lines.count <= self.max_bad_lines:
            return
        if self.max_bad_lines == 0:
            hint = "Correct the line, or allow some to be skipped with --max-bad-lines N."
        else:
            first = self.bad_lines.examples[0]
            hint = f"These are more than --max-bad-lines {self.max_bad_lines} allows; the first was {first}"
        raise DataMalformed(f"{place}: {why}. {hint}")

    def drop(self, reason: str, count: int, examples: Iterable[str]) -> None:
        """Notes `count` rows that could be read but are not valid."""
        if count:
            self.dropped.setdefault(reason, Finding()).add(count, examples)

    def warn(self, text: str) -> None:
        """Notes something odd that does no harm by itself; the same text is kept once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def count_rows(self, table: str, n: int) -> None:
        """Counts `n` more rows read for `table`."""
        self.rows_read[table] = self.rows_read.get(table, 0) + n
