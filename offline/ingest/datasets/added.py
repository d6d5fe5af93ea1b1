"""Items added to those of a data set: a file of new ones, in the form of own items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from offline.ingest.datasets.companion import WithCompanionFile
from offline.ingest.datasets.container import DataFile
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.own import read_items
from offline.ingest.datasets.records import DatasetSource, Rows

LISTS = ("genres", "directors", "cast", "writers")


class WithItems(WithCompanionFile):
    """A data set with further items; one that it describes itself stays as it is."""

    label = "items"

    def __init__(self, source: DatasetSource, file: Path) -> None:
        super().__init__(source, file)
        self.facts = replace(source.facts, items=0)

    def items(self, findings: Findings) -> Iterator[Rows]:
        """Those of the data set, then those of the file."""
        for rows in self._source.items(findings):
            yield rows.with_table(_joined_lists(rows.table))
        with self._file.open("rb") as stream:
            file = DataFile(self._file.name, self._file.stat().st_size, stream)
            for rows in read_items(file, findings):
                yield rows.with_table(_joined_lists(rows.table))


def _joined_lists(table: pa.Table) -> pa.Table:
    """Lists as "A|B", so that rows of any two files have columns of one type."""
    for name in LISTS:
        if name in table.column_names and pa.types.is_nested(table[name].type):
            column = pc.binary_join(pc.cast(table[name], pa.list_(pa.string())), "|")
            table = table.set_column(table.column_names.index(name), name, column)
    return table
