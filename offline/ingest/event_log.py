"""Recorded events as rows for `append_interactions`: what users did since the tables were made."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from gateway.events.sqlite import connect_read_only
from gateway.events.sqlite_store import OLDEST_SCHEMA
from recsys.errors import DataMalformed, DataMissing

BATCH_ROWS = 1 << 16

_SELECT = (
    "SELECT row_id, user_key, item_key, type, value, time FROM events WHERE row_id > ? AND row_id <= ? ORDER BY row_id"
)
_SCHEMA = pa.schema(
    [
        ("user_key", pa.string()),
        ("item_key", pa.string()),
        ("type", pa.int8()),
        ("value", pa.float64()),
        ("timestamp", pa.int64()),
    ]
)


class RecordedEvents:
    """The event table of a gateway, read only; the gateway may keep writing."""

    def __init__(self, path: Path) -> None:
        """Raises DataMissing where there is no such file."""
        if not path.is_file():
            raise DataMissing(f"{path}: no recorded events there; name the gateway's events file with --events-from")
        self.path = path

    def log_id(self) -> str:
        """Which log this is: the one that row ids are ids of, wherever the file is. Raises DataMalformed."""
        if self._value("PRAGMA user_version") == OLDEST_SCHEMA:
            raise DataMalformed(
                f"{self.path}: recorded by an older gateway, without a log id; start the gateway on it once, then "
                "ingest again"
            )
        return str(self._value("SELECT id FROM log"))

    def last_row(self) -> int:
        """Id of the last recorded row, 0 where there is none; raises DataMalformed for another kind of file."""
        return int(self._value("SELECT coalesce(max(row_id), 0) FROM events"))

    def _value(self, query: str) -> Any:
        try:
            with closing(self._connect()) as connection:
                return connection.execute(query).fetchone()[0]
        except (sqlite3.Error, TypeError) as error:  # TypeError: no row
            raise DataMalformed(f"{self.path}: not a file of recorded events ({error})") from error

    def batches(self, *, after: int, until: int) -> Iterator[pa.Table]:
        """Rows later than `after`, up to and including `until`, in order of recording."""
        with closing(self._connect()) as connection:
            cursor = connection.execute(_SELECT, (after, until))
            while rows := cursor.fetchmany(BATCH_ROWS):
                columns = list(zip(*rows, strict=True))[1:]
                arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
                yield pa.table(arrays, _SCHEMA)

    def _connect(self) -> sqlite3.Connection:
        return connect_read_only(self.path)
