"""Reads a user's own Parquet file batch by batch."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from offline.ingest.datasets.container import DataFile
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.layout import Column, Layout, normalise
from offline.ingest.datasets.records import Rows
from recsys.errors import DataMalformed, DataMissing, DataTruncated

BATCH_ROWS = 1 << 17
MARK = b"PAR1"
"""Stands at both ends of every Parquet file."""


def _open(file: DataFile) -> pq.ParquetFile:
    """Raises DataTruncated for a Parquet file that ends too early, DataMalformed for anything else."""
    stream = file.stream if file.stream.seekable() else io.BytesIO(file.stream.read())
    beginning = stream.read(len(MARK))
    stream.seek(0)
    try:
        return pq.ParquetFile(stream)
    except (pa.ArrowInvalid, OSError) as error:
        if beginning == MARK:
            raise DataTruncated(f"{file.name}: the Parquet file is not complete ({error}); copy it again") from error
        raise DataMalformed(f"{file.name}: expected Parquet, found a file that begins with {beginning!r}") from error


def _columns(schema: pa.Schema, file: str, layout: Layout) -> dict[str, str]:
    """The file's own name of each wanted column. Raises DataMissing."""
    own = {normalise(name): name for name in reversed(schema.names)}
    found: dict[str, str] = {}
    for column in layout.columns:
        aliases = [alias for alias in (column.name, *column.aliases) if normalise(alias) in own]
        if aliases:
            found[column.name] = own[normalise(aliases[0])]
        elif column.required:
            names = " or ".join((column.name, *column.aliases))
            raise DataMissing(f"{file}: no column {names}; its columns are {', '.join(schema.names)[:200]}")
    return found


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as strings. Whole numbers that pandas made floats (1.0) are the numbers they were."""
    if pa.types.is_floating(column.type):
        column = pc.cast(pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column), pa.int64())
    return pc.cast(column, pa.string())


def _fit(column: pa.ChunkedArray, wanted: Column) -> pa.ChunkedArray:
    """A column in the type that the csv reader would give it; lists and times are left to the conversion."""
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if wanted.name in ("user", "item"):
        return _as_text(column)
    is_time = pa.types.is_temporal(column.type) or wanted.name in ("timestamp", "available_from", "released")
    if is_time or pa.types.is_nested(column.type):
        return column
    return pc.cast(column, wanted.type)


def read_parquet(
    file: DataFile, layout: Layout, findings: Findings, *, conversion: Callable[[pa.Table], pa.Table]
) -> Iterator[Rows]:
    """Yields the rows of a Parquet file in order.

    Raises DataMissing for a column, DataTruncated for an incomplete file, DataMalformed for a column of a type that
    cannot be used, beyond what `findings` allows (then its batch is skipped, each row counting as a bad line).
    """
    parquet = _open(file)
    own = _columns(parquet.schema_arrow, file.name, layout)
    wanted = {column.name: column for column in layout.columns}
    row = 1
    batches = parquet.iter_batches(BATCH_ROWS, columns=list(own.values()), use_threads=False)
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataTruncated(f"{file.name}:{row}: the Parquet file is damaged ({error}); copy it again") from error
        if batch is None:
            return
        table = pa.Table.from_batches([batch])
        try:
            fitted = {name: _fit(table[source], wanted[name]) for name, source in own.items()}
            yield Rows(conversion(pa.table(fitted)), file.name, row)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            findings.bad_line(f"{file.name}:{row}", f"rows cannot be read: {error}", lines=len(batch))
        row += len(batch)
