"""A user's own interactions and items, as csv (header, comma, UTF-8) or Parquet.

The folder (or zip) holds `interactions.csv` or `interactions.parquet`: user, item, timestamp, optional rating or
weight, optional type; and, if there is one, `items.csv` or `items.parquet`: id, title, and optional genres ("A|B"),
year, available_from, directors, cast and writers ("A|B"), overview, runtime (minutes), budget, release_date.
Ids are numbers or strings. A rating makes the row a rating; without one it is a view, and a weight its value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from offline.ingest.datasets.columnar import read_parquet
from offline.ingest.datasets.container import DataFile, FileContainer
from offline.ingest.datasets.delimited import read_delimited
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.layout import Column, Layout
from offline.ingest.datasets.records import DatasetSource, Rows
from offline.ingest.datasets.timestamps import to_seconds
from recsys.domain import EventType
from recsys.errors import DataMissing

UNKNOWN_TYPE = -1
"""Stands for a type that is neither a name nor a number of `EventType`; ingest drops and lists such rows."""

INTERACTIONS = Layout(
    (
        Column("user", pa.string(), ("user_id", "userId", "user_key")),
        Column("item", pa.string(), ("item_id", "itemId", "movieId", "item_key")),
        Column("timestamp", pa.string(), ("ts", "time")),
        Column("rating", pa.float64(), ("value",), required=False),
        Column("weight", pa.float64(), required=False),
        Column("type", pa.string(), ("event_type",), required=False),
    )
)
DESCRIPTION = (
    Column("directors", pa.string(), ("director",), required=False),
    Column("cast", pa.string(), ("actors",), required=False),
    Column("writers", pa.string(), ("writer",), required=False),
    Column("overview", pa.string(), ("description", "plot"), required=False),
    Column("runtime", pa.float64(), required=False),
    Column("budget", pa.float64(), required=False),
    Column("released", pa.string(), ("release_date",), required=False),
)
"""What an item may have besides title, genres and year."""

ITEMS = Layout(
    (
        Column("item", pa.string(), ("id", "item_id", "itemId", "movieId", "item_key")),
        Column("title", pa.string(), ("name",)),
        Column("genres", pa.string(), ("genre",), required=False),
        Column("year", pa.float64(), required=False),
        Column("available_from", pa.string(), required=False),
        *DESCRIPTION,
    )
)


def _with(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    position = table.column_names.index(name) if name in table.column_names else None
    return table.append_column(name, column) if position is None else table.set_column(position, name, column)


def _event_types(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """EventType numbers (int8) of names or numbers; null stays null, anything else is UNKNOWN_TYPE."""
    text = pc.utf8_lower(pc.utf8_trim_whitespace(pc.cast(column, pa.string())))
    names = pa.array([name for kind in EventType for name in (kind.name.lower(), str(kind.value))])
    numbers = pa.array([kind.value for kind in EventType for _ in range(2)], pa.int8())
    known = pc.fill_null(pc.take(numbers, pc.index_in(text, names)), UNKNOWN_TYPE)
    absent = pc.or_kleene(pc.is_null(text), pc.equal(text, ""))
    return pc.if_else(absent, pa.scalar(None, pa.int8()), known)


def _as_interactions(table: pa.Table) -> pa.Table:
    """Standard interaction columns; raises pyarrow.ArrowInvalid for a timestamp that cannot be read."""
    nothing = pa.chunked_array([pa.nulls(table.num_rows, pa.float64())])
    rating, weight = (
        pc.cast(table[name], pa.float64()) if name in table.column_names else nothing for name in ("rating", "weight")
    )
    rated, viewed = (pa.scalar(int(kind), pa.int8()) for kind in (EventType.RATING, EventType.VIEW))
    implied = pc.if_else(pc.is_valid(rating), rated, viewed)
    given = _event_types(table["type"]) if "type" in table.column_names else None
    columns = {
        "user": table["user"],
        "item": table["item"],
        "timestamp": to_seconds(table["timestamp"]),
        "value": pc.coalesce(rating, weight),
        "type": implied if given is None else pc.coalesce(given, implied),
    }
    return pa.table(columns)


def _as_items(table: pa.Table) -> pa.Table:
    """Standard item columns; raises pyarrow.ArrowInvalid for a year or a time that cannot be read."""
    if "year" in table.column_names:
        table = _with(table, "year", pc.cast(pc.floor(pc.cast(table["year"], pa.float64())), pa.int64(), safe=False))
    for name in ("available_from", "released"):
        if name in table.column_names:
            table = _with(table, name, to_seconds(table[name]))
    return table


def read_items(file: DataFile, findings: Findings) -> Iterator[Rows]:
    """Rows of kind "items" of a csv or Parquet file."""
    yield from _read(file, ITEMS, findings, _as_items)


def _read(
    file: DataFile, layout: Layout, findings: Findings, conversion: Callable[[pa.Table], pa.Table]
) -> Iterator[Rows]:
    read = read_parquet if Path(file.name).suffix == ".parquet" else read_delimited
    yield from read(file, layout, findings, conversion=conversion)


class OwnInteractions(DatasetSource):
    """The user's own data; a set without ratings is as welcome."""

    rating_range = (0.0, 10.0)
    requires_value = False

    def __init__(self, name: str, container: FileContainer) -> None:
        """Raises DataMissing unless there are interactions."""
        self.name, self.container = name, container
        interactions = self._choose("interactions")
        if interactions is None:
            container.require(["interactions.csv"])
            raise DataMissing(f"{container.path}: neither interactions.csv nor interactions.parquet")
        self._interactions, self._items = interactions, self._choose("items")

    def _choose(self, stem: str) -> str | None:
        return next((name for name in (f"{stem}.csv", f"{stem}.parquet") if self.container.find(name)), None)

    def interactions(self, findings: Findings) -> Iterator[Rows]:
        with self.container.open(self._interactions) as file:
            yield from _read(file, INTERACTIONS, findings, _as_interactions)

    def items(self, findings: Findings) -> Iterator[Rows]:
        if self._items is None:
            findings.warn(f"{self.container.path}: neither items.csv nor items.parquet; titles are the items' keys")
            return
        with self.container.open(self._items) as file:
            yield from read_items(file, findings)

    def fingerprint(self) -> Mapping[str, Mapping[str, int | str]]:
        return self.container.fingerprint([name for name in (self._interactions, self._items) if name])
