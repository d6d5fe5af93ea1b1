"""Items beside those of a data set: a file of new ones, as own items are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from offline.datasets.container import DataFile, fingerprint_of
from offline.datasets.findings import Findings
from offline.datasets.own import read_items
from offline.datasets.records import DatasetSource, Rows

LISTS = ("genres", "directors", "cast", "writers")


class WithItems(DatasetSource):
    """A data set with further items; one that it describes itself stays as it is."""

    def __init__(self, source: DatasetSource, file: Path) -> None:
        self._source, self._file = source, file
        self.name, self.facts = source.name, replace(source.facts, items=0)
        self.rating_range, self.requires_value = source.rating_range, source.requires_value

    def interactions(self, findings: Findings) -> Iterator[Rows]:
        return self._source.interactions(findings)

    def tags(self, findings: Findings) -> Iterator[Rows]:
        return self._source.tags(findings)

    def links(self, findings: Findings) -> Iterator[Rows]:
        return self._source.links(findings)

    def users(self, findings: Findings) -> Iterator[Rows]:
        return self._source.users(findings)

    def items(self, findings: Findings) -> Iterator[Rows]:
        """Those of the data set, then those of the file."""
        for rows in self._source.items(findings):
            yield rows.with_table(_joined_lists(rows.table))
        with self._file.open("rb") as stream:
            file = DataFile(self._file.name, self._file.stat().st_size, stream)
            for rows in read_items(file, findings):
                yield rows.with_table(_joined_lists(rows.table))

    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        return {**self._source.fingerprint(), f"items: {self._file.name}": fingerprint_of(self._file)}


def _joined_lists(table: pa.Table) -> pa.Table:
    """Lists as "A|B", so that rows of any two files have columns of one type."""
    for name in LISTS:
        if name in table.column_names and pa.types.is_nested(table[name].type):
            column = pc.binary_join(pc.cast(table[name], pa.list_(pa.string())), "|")
            table = table.set_column(table.column_names.index(name), name, column)
    return table
