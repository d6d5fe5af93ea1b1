"""The contract between a data set format and ingest: which columns its rows have, and where each row came from.

Kinds of rows and their columns (`user` and `item` are int64, or strings where ids are keys; columns in brackets may be
absent, every other may hold nulls, which ingest drops and lists):

    interactions  user, item, timestamp int64, [value double], [type int8]
    items         item, title, [genres: "A|B" or list<string>], [year int64], [available_from int64],
                  [directors, cast, writers: as genres], [overview], [runtime double], [budget double], [released int64]
    tags          user, item, tag, timestamp int64
    links         item, imdb_id string, tmdb_id int64
    users         user, and any demographic columns
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from offline.ingest.datasets.findings import Findings


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one file."""

    table: pa.Table
    file: str
    first_line: int
    """1-based line (of a text file) or row (of a Parquet file) of the first row."""
    unterminated: bool = False
    """The last row ends the file without a line end, so it may be cut short."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def place(self, row: int) -> str:
        """Where row number `row` (from 0) was read, as "file:line"."""
        return f"{self.file}:{self.first_line + row}"

    def quote(self, row: int) -> str:
        """Place and content of row number `row`, for a report."""
        values = ",".join("" if (value := column[row].as_py()) is None else str(value) for column in self.table.columns)
        return f"{self.place(row)}: {values[:200]}"

    def with_table(self, table: pa.Table) -> Rows:
        """The same rows with other columns. `table` must have as many rows."""
        return replace(self, table=table)


@dataclass(frozen=True)
class Facts:
    """What is known about a data set in advance; 0 means unknown."""

    ratings: int = 0
    users: int = 0
    items: int = 0
    tags: int = 0


class DatasetSource(ABC):
    """A data set that can be ingested. Every method reads its files from the start, block by block, in file order."""

    name: str
    facts: Facts = Facts()
    rating_range: tuple[float, float] = (0.5, 5.0)
    """Ratings outside (both ends included) are invalid."""
    requires_value: bool = True
    """Whether an interaction without a value is invalid."""

    @abstractmethod
    def interactions(self, findings: Findings) -> Iterator[Rows]:
        """Who did what, when."""

    @abstractmethod
    def items(self, findings: Findings) -> Iterator[Rows]:
        """What there is to recommend."""

    @abstractmethod
    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        """Size in bytes and sha256 of each input by name: equal exactly when the inputs are."""

    def tags(self, findings: Findings) -> Iterator[Rows]:  # noqa: ARG002
        """Free words that users gave items; none unless a format has them."""
        return iter(())

    def links(self, findings: Findings) -> Iterator[Rows]:  # noqa: ARG002
        """Ids of the items elsewhere; none unless a format has them."""
        return iter(())

    def users(self, findings: Findings) -> Iterator[Rows]:  # noqa: ARG002
        """What is known about users; none unless a format has it."""
        return iter(())
