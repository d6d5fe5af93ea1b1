"""The star schema: which Parquet tables a data set has, how they are written, and how they are read back.

ratings      who did what, when: sorted by (timestamp, order in the file)
items        one row per item        item_genres   one row per (item, genre)
item_people  one row per credit      item_texts    one row per item that has an overview
users        one row per user        tags, links   as the data set ships them, ids translated
item_ids, user_ids   the append-only id tables (see `offline.dataset.ids`)

Genres, people and texts are known from when their item is (`available_from`); tags from their own timestamp.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offline.dataset.external_sort import INTERACTION, Records
from offline.dataset.ids import SCHEMA as ID_SCHEMA
from offline.dataset.ids import IdTable
from recsys.errors import DataMissing

SCHEMAS: dict[str, pa.Schema] = {
    "ratings": pa.schema(
        [
            ("user_id", pa.int64()),
            ("item_id", pa.int64()),
            ("timestamp", pa.int64()),  # Unix seconds
            ("value", pa.float32()),  # rating or weight; null where there is none
            ("type", pa.int8()),  # recsys.domain.EventType
        ]
    ),
    "items": pa.schema(
        [
            ("item_id", pa.int64()),
            ("item_key", pa.string()),
            ("title", pa.string()),
            ("year", pa.int16()),
            ("available_from", pa.int64()),  # Unix seconds; null: unknown
            ("released", pa.int64()),  # Unix seconds at midnight; not when the item became available here
            ("runtime", pa.float32()),  # minutes
            ("budget", pa.float32()),  # in one currency, that of the source
        ]
    ),
    "item_genres": pa.schema([("item_id", pa.int64()), ("genre", pa.string())]),
    "item_people": pa.schema(
        [
            ("item_id", pa.int64()),
            ("person_id", pa.int64()),  # a digest of the name: the same in every data set
            ("name", pa.string()),
            ("role", pa.string()),  # director, cast or writer
            ("position", pa.int16()),  # billing within the role, from 0
        ]
    ),
    "item_texts": pa.schema([("item_id", pa.int64()), ("overview", pa.string())]),
    "tags": pa.schema(
        [("user_id", pa.int64()), ("item_id", pa.int64()), ("tag", pa.string()), ("timestamp", pa.int64())]
    ),
    "links": pa.schema([("item_id", pa.int64()), ("imdb_id", pa.string()), ("tmdb_id", pa.int64())]),
    "users": pa.schema([("user_id", pa.int64()), ("user_key", pa.string())]),  # and any demographic columns
    "item_ids": ID_SCHEMA,
    "user_ids": ID_SCHEMA,
}
"""Columns of each table, in order."""

VIEWS = "views.sql"
"""DuckDB views over the tables, written next to them."""


def table_path(tables: Path, name: str) -> Path:
    """Where the table `name` of `SCHEMAS` lies."""
    return tables / f"{name}.parquet"


def read_table(tables: Path, name: str) -> pa.Table:
    """A table in memory. Raises DataMissing where it was never written."""
    path = table_path(tables, name)
    if not path.is_file():
        raise DataMissing(f"{path}: no such table; write the tables with `python -m offline ingest`")
    return pq.read_table(path)


def write_table(tables: Path, name: str, table: pa.Table) -> None:
    """Writes a table; columns beyond those of `SCHEMAS` follow them."""
    schema = SCHEMAS[name]
    extra = [column for column in table.column_names if column not in schema.names]
    ordered = table.select([*schema.names, *extra])
    fields = [*schema, *(ordered.schema.field(column) for column in extra)]
    pq.write_table(ordered.cast(pa.schema(fields)), table_path(tables, name), compression="zstd")


def write_views(tables: Path) -> None:
    """Writes the DuckDB views."""
    (tables / VIEWS).write_text(resources.files(__package__).joinpath(VIEWS).read_text("utf-8"), "utf-8")


class RatingsWriter:
    """Writes ratings.parquet from arrays of records that come in order of time."""

    def __init__(self, tables: Path) -> None:
        self._writer = pq.ParquetWriter(table_path(tables, "ratings"), SCHEMAS["ratings"], compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, records: Records) -> None:
        """Appends records, a row group per million."""
        for start in range(0, len(records), 1 << 20):
            part = records[start : start + (1 << 20)]
            columns = {name: np.ascontiguousarray(part[name]) for name in SCHEMAS["ratings"].names}
            arrays = [pa.array(column, from_pandas=name == "value") for name, column in columns.items()]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMAS["ratings"]))


def records_of(ratings: pa.RecordBatch) -> Records:
    """Rows of ratings.parquet as records."""
    records = np.empty(len(ratings), dtype=INTERACTION)
    for name in SCHEMAS["ratings"].names:
        records[name] = ratings.column(name).to_numpy(zero_copy_only=False)
    return records


class IdTables:
    """The id tables of users and items, kept together."""

    def __init__(self, users: IdTable, items: IdTable) -> None:
        self.users, self.items = users, items

    @classmethod
    def load(cls, tables: Path) -> IdTables:
        """Those of an earlier ingest; empty ones where there was none. Raises DataMalformed for damaged ones."""
        return cls(IdTable.load(table_path(tables, "user_ids")), IdTable.load(table_path(tables, "item_ids")))

    def save(self, tables: Path) -> None:
        """Writes both."""
        self.users.save(table_path(tables, "user_ids"))
        self.items.save(table_path(tables, "item_ids"))
