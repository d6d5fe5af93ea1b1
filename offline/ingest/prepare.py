"""Tables of a data set: read again only where the raw files changed, with recorded events appended."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offline.dataset.tables import SCHEMAS
from offline.ingest import demo, synthetic
from offline.ingest.datasets.added import WithItems
from offline.ingest.datasets.records import DatasetSource
from offline.ingest.datasets.registry import DEMO, GENERATED, PUBLISHED, open_dataset
from offline.ingest.download import download
from offline.ingest.event_log import RecordedEvents
from offline.ingest.ingest import append_interactions, ingest
from offline.ingest.inputs import IngestInputs
from offline.ingest.metadata import Described
from offline.ingest.report import REPORT, IngestReport
from offline.steps.code import code_digest
from offline.steps.workspace import Step
from recsys.errors import DataMissing

log = logging.getLogger(__name__)

SOURCE_FILE = "source.json"
"""What the tables were made of: a cheap fingerprint (names, sizes and times of change of the raw files, and a digest of
the code that reads them) decides whether to read again."""

PENDING = "pending_watermarks"
"""Its only key while tables are being made: up to where recorded events belong into them, by log id."""

LOGS_FILE = "events_files.json"
"""Where the events file of each log was when it was last read, by log id."""


def prepare_tables(inputs: IngestInputs) -> Step:
    """Makes or reuses the tables; a data set that is not there is downloaded.

    Raises DataError where the raw files cannot be used, or a file that is named is not there; tables that are there
    stay as they are.
    """
    _require_named(inputs)
    path = raw_files(inputs)
    fingerprint = json.dumps(_fingerprint(inputs, path), sort_keys=True)
    record = inputs.home / SOURCE_FILE
    unchanged = record.is_file() and (inputs.tables / REPORT).is_file() and record.read_text("utf-8") == fingerprint
    if unchanged:
        log.info("ingest: raw files unchanged, tables reused")
    else:
        before = _pending(record) | _watermarks(inputs)
        inputs.home.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({PENDING: before}), "utf-8")
        _log_report(ingest(_source(inputs, path), inputs.tables, max_bad_lines=inputs.max_bad_lines))
        _append_again(inputs, before)
        record.write_text(fingerprint, "utf-8")
    return tables_step(inputs, reused=unchanged)


def append_events(inputs: IngestInputs, events_file: Path) -> IngestReport:
    """Appends what was recorded since the tables were made; tables, ids and the log's watermark move together.

    Of a file with another log id than any before, that is everything. Rows that the tables hold already, equal in every
    column, are not added again.
    """
    events, before = RecordedEvents(events_file), IngestReport.load(inputs.tables)
    name, last = events.log_id(), events.last_row()
    _remember(inputs, name, events_file)
    after = before.events_watermarks.get(name, 0)
    if last == after:
        log.info("ingest: no events recorded after row %d of %s", after, events_file)
        return before
    if last < after:
        log.warning(
            "ingest: %s ends at row %d, the tables hold its log up to row %d: an older copy; all its rows are read "
            "again",
            events_file,
            last,
            after,
        )
        after = 0
    report = append_interactions(inputs.tables, events.batches(after=after, until=last), watermarks={name: last})
    log.info("ingest: %d events of %s appended, up to row %d", report.appended - before.appended, events_file, last)
    _log_report(report)
    return report


def _append_again(inputs: IngestInputs, before: Mapping[str, int]) -> None:
    """Appends the events of every log that the tables held; warns of those that are nowhere to be found."""
    files = _remembered(inputs)
    for name, row in sorted(before.items()):
        places = dict.fromkeys((files.get(name, inputs.events_file), inputs.events_file))
        file = next((place for place in places if place.is_file() and RecordedEvents(place).log_id() == name), None)
        if file is not None:
            append_events(inputs, file)
            continue
        log.warning(
            "ingest: events up to row %d of log %s are no longer in the tables, and the log is not in %s; append them "
            "with `python -m offline ingest --events-from FILE`",
            row,
            name,
            " or ".join(map(str, places)),
        )


def _remembered(inputs: IngestInputs) -> dict[str, Path]:
    record = inputs.home / LOGS_FILE
    content = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    return {name: Path(place) for name, place in content.items()}


def _remember(inputs: IngestInputs, name: str, file: Path) -> None:
    files = {known: str(place) for known, place in _remembered(inputs).items()} | {name: str(file.resolve())}
    (inputs.home / LOGS_FILE).write_text(json.dumps(files, indent=1, sort_keys=True) + "\n", "utf-8")


def tables_step(inputs: IngestInputs, *, reused: bool) -> Step:
    """The tables as an input of other steps: their key is a digest of what ingest reported and of its code."""
    folder = inputs.tables.resolve()
    key = hashlib.sha256((folder / REPORT).read_bytes() + _code().encode()).hexdigest()[:16]
    return Step("tables", key, folder, reused)


def raw_files(inputs: IngestInputs) -> Path | None:
    """Where the raw files are: the folder that was named, else a download below the root; None for a generated set."""
    if inputs.dataset in GENERATED:
        return None
    if inputs.data_dir is not None or inputs.dataset not in PUBLISHED:
        return inputs.data_dir
    return download(inputs.dataset, inputs.root / "downloads")


def _require_named(inputs: IngestInputs) -> None:
    """Tables that were made without a file would otherwise be taken for those with it."""
    for name, file in (("metadata-file", inputs.metadata_file), ("items-file", inputs.items_file)):
        if file is not None and not file.is_file():
            raise DataMissing(f"{file}: no such file; name another with --{name}, or leave it out")


def _source(inputs: IngestInputs, path: Path | None) -> DatasetSource:
    source = open_dataset(inputs.dataset, path, rows=inputs.rows)
    if inputs.items_file is not None:
        source = WithItems(source, inputs.items_file)
    return source if inputs.metadata_file is None else Described(source, inputs.metadata_file)


def _fingerprint(inputs: IngestInputs, path: Path | None) -> dict[str, Any]:
    root = path or Path(str((demo if inputs.dataset == DEMO else synthetic).__file__)).parent
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.suffix != ".pyc")
    files += [file for file in (inputs.metadata_file, inputs.items_file) if file is not None]
    found = {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()}
    return {
        "dataset": inputs.dataset,
        "max_bad_lines": inputs.max_bad_lines,
        "files": found,
        "tables": {name: schema.names for name, schema in SCHEMAS.items()},
        "code": _code(),
    }


def _code() -> str:
    """A digest of this module and of everything that it imports: the formats, the rules, the generated demo set."""
    return code_digest([prepare_tables])


def _watermarks(inputs: IngestInputs) -> dict[str, int]:
    present = (inputs.tables / REPORT).is_file()
    return dict(IngestReport.load(inputs.tables).events_watermarks) if present else {}


def _pending(record: Path) -> dict[str, int]:
    """The watermarks that the tables had before an ingest that did not end."""
    content = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    return dict(content.get(PENDING, {}))


def _log_report(report: IngestReport) -> None:
    for line in report.lines():
        log.info("%s", line)
