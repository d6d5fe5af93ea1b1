"""Takes in interactions: refuses what cannot be true, numbers the keys, and remembers who and what occurred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from offline.dataset.external_sort import INTERACTION, ExternalSorter
from offline.dataset.ids import IdTable
from offline.dataset.tables import IdTables
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.records import Rows
from offline.ingest.validity import drop_invalid, id_checks, time_checks, value_checks
from recsys.domain import EventType
from recsys.errors import DataTruncated

PLAUSIBLE_TIMESTAMP = 100_000_000
"""1973: where all times are later than this they are real ones, and a last one that lost a digit stands out."""


@dataclass(frozen=True)
class ValueRules:
    """Which values a data set allows."""

    rating_range: tuple[float, float]
    """Both ends included."""
    requires_value: bool


class IdSet:
    """A growing set of ids, merged now and then."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.int64]] = []

    def add(self, ids: NDArray[np.int64]) -> None:
        """Adds ids; repeated ones do no harm."""
        self._parts.append(np.unique(ids))
        if len(self._parts) > 64:
            self._parts = [self.ids()]

    def ids(self) -> NDArray[np.int64]:
        """All ids, ascending."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *self._parts]))


def numbers_of(column: pa.ChunkedArray, ids: IdTable) -> NDArray[np.int64]:
    """Ids of a column that passed `id_checks`: numbers as they are, keys through the id table."""
    if pa.types.is_integer(column.type):
        return np.asarray(column, dtype=np.int64)
    return ids.numbers(column)


class InteractionReader:
    """Feeds interactions of one data set into an `ExternalSorter`."""

    def __init__(self, rules: ValueRules, ids: IdTables, sorter: ExternalSorter, findings: Findings) -> None:
        self._rules, self._ids, self._sorter, self._findings = rules, ids, sorter, findings
        self._earliest: int | None = None
        self.users, self.items = IdSet(), IdSet()

    def take(self, rows: Rows) -> None:
        """Takes rows of kind "interactions". Raises DataTruncated where the file's last time is visibly cut short."""
        self._findings.count_rows("ratings", len(rows))
        if not len(rows):
            return
        self._watch_end(rows)
        table = rows.table
        values, absent, types = self._values(table)
        checks = [
            *id_checks(table["user"], "user"),
            *id_checks(table["item"], "item"),
            *time_checks(table["timestamp"]),
            *value_checks(values, types, absent, self._rules.rating_range),
        ]
        kept = drop_invalid(rows, checks, self._findings, table="ratings")
        table = table if kept.all() else table.filter(pa.array(kept))
        records = np.empty(table.num_rows, dtype=INTERACTION)
        records["timestamp"] = np.asarray(table["timestamp"], dtype=np.int64)
        records["user_id"] = numbers_of(table["user"], self._ids.users)
        records["item_id"] = numbers_of(table["item"], self._ids.items)
        records["value"], records["type"] = values[kept], types[kept]
        self._sorter.add(records)
        self.users.add(records["user_id"])
        self.items.add(records["item_id"])

    def _values(self, table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int8]]:
        """Values (NaN where absent), which are absent, and event types; without a type, a value makes a rating."""
        n = table.num_rows
        if "value" in table.column_names:
            absent = np.asarray(table["value"].is_null(), dtype=np.bool_)
            values = np.asarray(table["value"], dtype=np.float64)
        else:
            absent, values = np.ones(n, np.bool_), np.full(n, np.nan)
        if "type" in table.column_names:
            types = np.asarray(table["type"].fill_null(0), dtype=np.int8)
        elif self._rules.requires_value:
            types = np.full(n, EventType.RATING, np.int8)
        else:
            types = np.where(absent, EventType.VIEW, EventType.RATING).astype(np.int8)
        return values, absent, types

    def _watch_end(self, rows: Rows) -> None:
        """A number that lost a digit is at most a tenth of what it was: no real time is that far from the others."""
        times = rows.table["timestamp"].drop_null()
        if rows.unterminated:
            last = rows.table["timestamp"][-1].as_py()
            times = times.slice(0, max(len(times) - 1, 0))
        earliest = [int(np.min(np.asarray(times)))] if len(times) else []
        self._earliest = min([*earliest, *([] if self._earliest is None else [self._earliest])], default=None)
        if not rows.unterminated:
            return
        place = rows.place(len(rows) - 1)
        if last is None or (self._earliest and self._earliest >= PLAUSIBLE_TIMESTAMP and last < self._earliest / 5):
            raise DataTruncated(
                f"{place}: the file ends without a line end, and its last timestamp {last} is cut short "
                f"(the earliest other one is {self._earliest}); copy or download the file again"
            )
