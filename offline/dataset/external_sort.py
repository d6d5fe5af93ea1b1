"""Sorts interactions by (time, order of arrival) in bounded memory: spool, scatter by time range, sort each range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

INTERACTION = np.dtype([("timestamp", "<i8"), ("user_id", "<i8"), ("item_id", "<i8"), ("value", "<f4"), ("type", "i1")])
"""One interaction on disk and in memory; a value that is not there is NaN."""

Records = NDArray[np.void]
"""An array of `INTERACTION`."""

CHUNK_ROWS = 1 << 18
SAMPLE_ROWS = 1 << 20
"""How many timestamps are looked at to choose ranges of about equal size."""


class ExternalSorter:
    """Collects interactions in any order, gives them back in order of time.

    At most `rows_in_memory` rows are held at once, unless more than that share one timestamp.
    """

    def __init__(self, folder: Path, *, rows_in_memory: int) -> None:
        """Temporary files are written below `folder`, which must be there."""
        self._folder = folder
        self._rows_in_memory = rows_in_memory
        self._spool = folder / "spool.bin"
        self._stream = self._spool.open("wb")
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, records: Records) -> None:
        """Appends interactions in order of arrival."""
        records.tofile(self._stream)
        self._rows += len(records)

    def close(self) -> None:
        """Removes the temporary files."""
        self._stream.close()
        for path in self._folder.glob("*.bin"):
            path.unlink()

    def sorted(self) -> Iterator[Records]:
        """Yields all interactions, earliest first, in arrays that are not empty.

        Equal times keep their order of arrival and stand in one array.
        """
        self._stream.close()
        bounds = self._bounds()
        if not len(bounds):
            paths = [self._spool]
        else:
            paths = self._scatter(bounds)
            self._spool.unlink()
        for path in paths:
            records = np.fromfile(path, dtype=INTERACTION)
            path.unlink()
            if len(records):
                yield records[np.argsort(records["timestamp"], kind="stable")]

    def _chunks(self) -> Iterator[Records]:
        with self._spool.open("rb") as stream:
            while len(records := np.fromfile(stream, dtype=INTERACTION, count=CHUNK_ROWS)):
                yield records

    def _bounds(self) -> NDArray[np.int64]:
        """First timestamps of all ranges but the earliest."""
        ranges = -(-self._rows * 5 // (self._rows_in_memory * 4))
        if ranges <= 1:
            return np.empty(0, np.int64)
        step = max(1, self._rows // SAMPLE_ROWS)
        # Copies: a view would keep all of its chunk in memory.
        sample = np.sort(np.concatenate([records["timestamp"][::step].copy() for records in self._chunks()]))
        return np.unique(sample[np.linspace(0, len(sample), ranges, endpoint=False).astype(np.int64)[1:]])

    def _scatter(self, bounds: NDArray[np.int64]) -> list[Path]:
        """Writes each range to a file of its own, in order of arrival; the files are in order of time."""
        paths = [self._folder / f"range-{number}.bin" for number in range(len(bounds) + 1)]
        streams = [path.open("wb") for path in paths]
        try:
            for records in self._chunks():
                ranges = np.searchsorted(bounds, records["timestamp"], side="right")
                grouped = records[np.argsort(ranges, kind="stable")]
                ends = np.cumsum(np.bincount(ranges, minlength=len(paths)))
                for stream, part in zip(streams, np.split(grouped, ends[:-1]), strict=True):
                    part.tofile(stream)
        finally:
            for stream in streams:
                stream.close()
        return paths


def _mix(records: Records) -> NDArray[np.uint64]:
    """A 64-bit hash of each record (multiply-xorshift of splitmix64, Steele et al. 2014)."""
    mixed = np.zeros(len(records), np.uint64)
    values = np.where(np.isnan(records["value"]), np.float32(-1), records["value"]).astype("<f4").view("<u4")
    for column in (records["timestamp"], records["user_id"], records["item_id"], values, records["type"]):
        mixed ^= column.astype(np.uint64)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def repeated(records: Records) -> NDArray[np.bool_]:
    """Marks every record that is equal in all columns to an earlier one (two absent values are equal)."""
    marks = np.zeros(len(records), np.bool_)
    hashes = _mix(records)
    ordered = np.sort(hashes)
    suspicious = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(suspicious):
        return marks
    seen: set[tuple[object, ...]] = set()
    for row in np.flatnonzero(np.isin(hashes, suspicious)):
        *others, value, kind = records[row].tolist()
        record = (*others, None if math.isnan(value) else value, kind)
        marks[row] = record in seen
        seen.add(record)
    return marks
