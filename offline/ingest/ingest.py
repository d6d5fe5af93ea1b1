"""From a data set's files to tables: streaming, in bounded memory, all or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from offline.dataset.external_sort import ExternalSorter, repeated
from offline.dataset.tables import (
    IdTables,
    RatingsWriter,
    read_table,
    records_of,
    table_path,
    write_table,
    write_views,
)
from offline.ingest.atomic_swap import new_version
from offline.ingest.datasets.findings import MAX_EXAMPLES, Findings
from offline.ingest.datasets.records import DatasetSource, Rows
from offline.ingest.dimension_tables import (
    add_missing,
    build_items,
    build_links,
    build_tags,
    build_users,
    complete_items,
    complete_users,
)
from offline.ingest.interaction_reader import InteractionReader, ValueRules
from offline.ingest.report import IngestReport, findings_of
from recsys.errors import DataMalformed

MEMORY_LIMIT = 256 << 20
"""Bytes that sorting may take, beyond what the libraries themselves need."""

BYTES_PER_ROW = 160
"""What sorting and writing one interaction takes at most: its record twice, its order, its hash twice, its columns."""


def ingest(
    source: DatasetSource, tables: Path, *, max_bad_lines: int = 0, memory_limit: int = MEMORY_LIMIT
) -> IngestReport:
    """Reads a data set and replaces `tables` by its contents; the id tables of an earlier ingest are kept and extended.

    Raises DataError, and leaves `tables` as they were, where the input cannot be used.
    """
    findings = Findings(max_bad_lines)
    with new_version(tables) as folder:
        ids = IdTables.load(tables)
        rules = ValueRules(source.rating_range, source.requires_value)
        with closing(ExternalSorter(folder, rows_in_memory=max(memory_limit // BYTES_PER_ROW, 1))) as sorter:
            reader = InteractionReader(rules, ids, sorter, findings)
            for rows in source.interactions(findings):
                _warn_of_end(rows, findings)
                reader.take(rows)
            span = _write_ratings(sorter, folder, findings, source.name)
        counts = _write_dimensions(source, folder, ids, reader, findings)
        _compare(source, reader, findings)
        report = _report(source, findings, span, counts)
        _finish(folder, ids, report)
    return report


def append_interactions(
    tables: Path,
    events: Iterable[pa.Table],
    *,
    watermarks: Mapping[str, int] | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> IngestReport:
    """Adds recorded events to existing tables as a new version, in order of time; ids keep their numbers.

    Each table of `events` has the columns user_key, item_key (string), type (int8), value (double, nullable) and
    timestamp (int64, Unix seconds). Events that are there already, equal in every column, are not added again.
    `watermarks` is, by log id, the last row of a gateway's table that they include; other logs keep theirs. Raises
    DataMissing where there are no tables yet.
    """
    with new_version(tables) as folder:
        before = IngestReport.load(tables)
        findings, ids = findings_of(before), IdTables.load(tables)
        with closing(ExternalSorter(folder, rows_in_memory=max(memory_limit // BYTES_PER_ROW, 1))) as sorter:
            for batch in pq.ParquetFile(table_path(tables, "ratings")).iter_batches(1 << 18, use_threads=False):
                sorter.add(records_of(batch))
            reader = InteractionReader(ValueRules(before.rating_range, requires_value=False), ids, sorter, findings)
            for rows in _event_rows(events):
                reader.take(rows)
            span = _write_ratings(sorter, folder, findings, "events")
        counts = _extend_dimensions(tables, folder, ids, reader, findings)
        appended = before.appended + span[2] - before.rows["ratings"]
        report = replace(
            before,
            rows={**before.rows, **counts, "ratings": span[2]},
            rows_read=findings.rows_read,
            first_timestamp=span[0],
            last_timestamp=span[1],
            dropped=findings.dropped,
            warnings=tuple(findings.warnings),
            appended=appended,
            events_watermarks=dict(sorted({**before.events_watermarks, **(watermarks or {})}.items())),
        )
        _finish(folder, ids, report)
    return report


def _event_rows(events: Iterable[pa.Table]) -> Iterator[Rows]:
    """Recorded events as rows of kind "interactions"."""
    first = 1
    for table in events:
        columns = {"user": "user_key", "item": "item_key", "timestamp": "timestamp", "value": "value", "type": "type"}
        yield Rows(pa.table({name: table[own] for name, own in columns.items()}), "events", first)
        first += table.num_rows


def _warn_of_end(rows: Rows, findings: Findings) -> None:
    if rows.unterminated:
        findings.warn(f"{rows.place(len(rows) - 1)}: the last line has no line end; check that the file is complete")


def _watched(source: Iterable[Rows], findings: Findings) -> Iterator[Rows]:
    for rows in source:
        _warn_of_end(rows, findings)
        yield rows


def _write_ratings(sorter: ExternalSorter, folder: Path, findings: Findings, name: str) -> tuple[int, int, int]:
    """Writes ratings.parquet; returns first and last timestamp and the rows written. Raises DataMalformed for none."""
    if not len(sorter):
        reasons = ", ".join(f"{reason} ({finding.count:,})" for reason, finding in findings.dropped.items())
        raise DataMalformed(f"{name}: not one valid interaction; dropped: {reasons or 'nothing, the file has no rows'}")
    first, last, written = -1, -1, 0
    with RatingsWriter(folder) as writer, tqdm(total=len(sorter), unit=" rows", desc="sort", disable=None) as progress:
        for records in sorter.sorted():
            again = repeated(records)
            examples = (_quote(record) for record in records[again][:MAX_EXAMPLES])
            findings.drop("ratings: the same row again", int(again.sum()), examples)
            kept = records[~again] if again.any() else records
            writer.write(kept)
            first = int(kept["timestamp"][0]) if first < 0 else first
            last = int(kept["timestamp"][-1])
            written += len(kept)
            progress.update(len(records))
    return first, last, written


def _quote(record: np.void) -> str:
    user, item, time, value = (record[name] for name in ("user_id", "item_id", "timestamp", "value"))
    return f"user {user}, item {item}, timestamp {time}, value {value}"


def _write_dimensions(
    source: DatasetSource, folder: Path, ids: IdTables, reader: InteractionReader, findings: Findings
) -> dict[str, int]:
    tags, tag_users, tag_items = build_tags(_watched(source.tags(findings), findings), ids, findings)
    items_seen = np.union1d(reader.items.ids(), tag_items)
    users_seen = np.union1d(reader.users.ids(), tag_users)
    items = build_items(_watched(source.items(findings), findings), ids, items_seen, findings)
    users = build_users(_watched(source.users(findings), findings), ids, users_seen, findings)
    links = build_links(_watched(source.links(findings), findings), ids, findings)
    written = {**items, "tags": tags, "links": links, "users": users}
    for name, table in written.items():
        write_table(folder, name, table)
    return {name: table.num_rows for name, table in written.items()}


def _extend_dimensions(
    tables: Path, folder: Path, ids: IdTables, reader: InteractionReader, findings: Findings
) -> dict[str, int]:
    """Adds rows for new items and users; the other tables are linked, not copied."""
    for name in ("item_genres", "item_people", "item_texts", "tags", "links"):
        try:
            os.link(table_path(tables, name), table_path(folder, name))
        except OSError:
            shutil.copyfile(table_path(tables, name), table_path(folder, name))
    items = complete_items(add_missing(read_table(tables, "items"), "item", reader.items.ids()), ids.items, findings)
    users = complete_users(add_missing(read_table(tables, "users"), "user", reader.users.ids()), ids.users)
    write_table(folder, "items", items)
    write_table(folder, "users", users)
    return {"items": items.num_rows, "users": users.num_rows}


def _compare(source: DatasetSource, reader: InteractionReader, findings: Findings) -> None:
    """Warns where counts are not those of the data set as its owner ships it."""
    found = {
        "ratings": findings.rows_read.get("ratings", 0),
        "users": len(reader.users.ids()),
        "items": findings.rows_read.get("items", 0),
        "tags": findings.rows_read.get("tags", 0),
    }
    for name, count in found.items():
        expected = getattr(source.facts, name)
        if expected and count != expected:
            findings.warn(f"{source.name} has {expected:,} {name}, these files have {count:,}")


def _report(
    source: DatasetSource, findings: Findings, span: tuple[int, int, int], counts: dict[str, int]
) -> IngestReport:
    return IngestReport(
        dataset=source.name,
        inputs=source.fingerprint(),
        rating_range=source.rating_range,
        rows={"ratings": span[2], **counts},
        rows_read=findings.rows_read,
        first_timestamp=span[0],
        last_timestamp=span[1],
        bad_lines=findings.bad_lines,
        dropped=findings.dropped,
        warnings=tuple(findings.warnings),
    )


def _finish(folder: Path, ids: IdTables, report: IngestReport) -> None:
    ids.save(folder)
    write_views(folder)
    report.save(folder)
