"""A file of item metadata for a data set that has none: people, overviews, runtimes, budgets, release dates.

Two forms, by the file's ending. Neither is part of any data set; both are third-party texts with terms of their own.

    .dat            "::" between fields: item, title, year, certificate, release date, genres, directors, writers, cast,
                    plot, poster address; UTF-8
    .csv, .parquet  a header with a column that names the item (movieId, tmdb_id or id, imdb_id) and any of directors,
                    cast, writers, overview, runtime, budget, release_date, as exports of TMDb have them. TMDb's and
                    IMDb's ids are looked up in the data set's links

Several names are separated by "|", or else by commas. Opinions (votes, popularity, revenue) are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from offline.ingest.datasets.columnar import read_parquet
from offline.ingest.datasets.companion import WithCompanionFile
from offline.ingest.datasets.container import DataFile
from offline.ingest.datasets.delimited import read_delimited
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.layout import Column, Layout
from offline.ingest.datasets.own import DESCRIPTION
from offline.ingest.datasets.records import DatasetSource, Rows
from recsys.errors import DataMalformed, DataMissing

EXTRAS = Layout(
    (
        Column("item", pa.string()),
        *(Column(name, pa.string()) for name in ("title", "year", "certificate", "released", "genres")),
        *(Column(name, pa.string()) for name in ("directors", "writers", "cast", "overview", "poster")),
    ),
    separator="::",
    header=False,
    quoted=False,
    free_text="overview",
)
EXPORT = Layout(
    (
        Column("item", pa.string(), ("movieId", "item_id", "item_key"), required=False),
        Column("tmdb", pa.string(), ("tmdb_id", "id"), required=False),
        Column("imdb", pa.string(), ("imdb_id",), required=False),
        *DESCRIPTION,
    )
)
NAMES = ("directors", "cast", "writers")
DATE_FORMS = ("%Y-%m-%d", "%d %b %Y", "%m/%d/%Y")
COMMA = re.compile(r",\s+(?!(?:Jr|Sr|II|III|IV)\b)")
"""Between names; "Robert Downey, Jr." is one."""
REMARK = re.compile(r"\s*\([^()]*\)")


class Described(WithCompanionFile):
    """A data set whose items are completed from a file of metadata; the data set's own values stay."""

    label = "metadata"

    def __init__(self, source: DatasetSource, file: Path) -> None:
        """Raises DataMissing where the file is not there."""
        if not file.is_file():
            raise DataMissing(f"{file}: no such file; name the metadata file, or leave --metadata-file out")
        super().__init__(source, file)

    def items(self, findings: Findings) -> Iterator[Rows]:
        metadata = self._metadata(findings)
        known = 0
        for rows in self._source.items(findings):
            completed, found = _complete(rows.table, metadata)
            known += found
            yield rows.with_table(completed)
        if not known:
            findings.warn(f"{self._file}: none of its {metadata.num_rows} items is an item of {self.name}")

    def _metadata(self, findings: Findings) -> pa.Table:
        """One row per item key; the first where a key occurs again."""
        parts = [rows.table for rows in self._read(findings)]
        if not parts:
            raise DataMissing(f"{self._file}: holds no row; leave --metadata-file out")
        table = _with_items(pa.concat_tables(parts, promote_options="permissive"), self._source, self._file)
        first = {key: row for row, key in reversed(list(enumerate(table["item"].to_pylist()))) if key}
        return table.take(pa.array(sorted(first.values()), pa.int64()))

    def _read(self, findings: Findings) -> Iterator[Rows]:
        with self._file.open("rb") as stream:
            file = DataFile(self._file.name, self._file.stat().st_size, stream)
            if self._file.suffix == ".parquet":
                yield from read_parquet(file, EXPORT, findings, conversion=_standard)
            else:
                layout = EXTRAS if self._file.suffix == ".dat" else EXPORT
                yield from read_delimited(file, layout, findings, conversion=_standard)


def _standard(table: pa.Table) -> pa.Table:
    """Ids and descriptions in the columns of item rows; names as lists, dates as Unix seconds."""
    wanted = {"item", "tmdb", "imdb", *(column.name for column in DESCRIPTION)}
    columns = {name: table[name] for name in table.column_names if name in wanted}
    for name in NAMES:
        if name in columns and not pa.types.is_nested(columns[name].type):
            lists = [_names(value) for value in columns[name].to_pylist()]
            columns[name] = pa.array(lists, pa.list_(pa.string()))
    if "released" in columns:
        columns["released"] = pa.array([_seconds(value) for value in columns["released"].to_pylist()], pa.int64())
    for name in ("runtime", "budget"):  # exports write 0 for an unknown value
        if name in columns:
            columns[name] = pc.if_else(pc.greater(columns[name], 0), columns[name], pa.scalar(None, pa.float64()))
    return pa.table(columns)


def _names(value: str | None) -> list[str] | None:
    if value is None:
        return None
    return value.split("|") if "|" in value else COMMA.split(REMARK.sub("", value))


def _seconds(value: object) -> int | None:
    """Midnight of a date, UTC; None for one that is in none of `DATE_FORMS`."""
    text = str(value or "").strip()
    for form in DATE_FORMS:
        try:
            return int(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp())
        except ValueError:
            continue
    return None


def _with_items(table: pa.Table, source: DatasetSource, file: Path) -> pa.Table:
    """The table with the column `item` (string), looked up in the links where it has only ids of elsewhere."""
    if "item" in table.column_names:
        return table
    column = next((name for name in ("tmdb", "imdb") if name in table.column_names), None)
    if column is None:
        raise DataMissing(
            f"{file}: no column movieId, tmdb_id, id or imdb_id; one of them must identify the item of a row"
        )
    links = _links(source, f"{column}_id")
    if not links:
        raise DataMalformed(f"{file}: names items by {column}_id, but {source.name} has no links; add a column movieId")
    items = pa.array([links.get(_plain(value)) for value in table[column].to_pylist()], pa.string())
    return table.append_column("item", items)


def _links(source: DatasetSource, column: str) -> dict[str, str]:
    """Item keys by their id elsewhere."""
    found: dict[str, str] = {}
    for rows in source.links(Findings()):
        items = pc.cast(rows.table["item"], pa.string()).to_pylist()
        for item, value in zip(items, rows.table[column].to_pylist(), strict=True):
            if value is not None:
                found.setdefault(_plain(value), item)
    return found


def _plain(value: object) -> str:
    """An id without what files add to it: "tt0114709" and "0114709" are one, so are "862" and "862.0"."""
    return str(value).removeprefix("tt").removesuffix(".0").lstrip("0")


def _complete(items: pa.Table, metadata: pa.Table) -> tuple[pa.Table, int]:
    """Item rows with the metadata's columns where they have none or null; and how many rows were found."""
    positions = pc.index_in(pc.cast(items["item"], pa.string()), metadata["item"].combine_chunks())
    for column in DESCRIPTION:
        if column.name not in metadata.column_names:
            continue
        values = metadata[column.name].combine_chunks().take(positions.combine_chunks())
        if column.name in items.column_names:
            values = _filled(items[column.name], values)
            items = items.drop_columns([column.name])
        items = items.append_column(column.name, values)
    return items, len(positions) - positions.null_count


def _filled(own: pa.ChunkedArray, values: pa.Array) -> pa.Array:
    """`own`, in the type of `values`, and `values` where it is null."""
    merged = []
    for stated, found in zip(own.to_pylist(), values.to_pylist(), strict=True):
        if stated is None or stated == "":
            merged.append(found)
        else:
            merged.append(stated.split("|") if pa.types.is_list(values.type) and isinstance(stated, str) else stated)
    return pa.array(merged, values.type)
