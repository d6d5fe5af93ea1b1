"""Tables of the configured data set: read again only where the raw files changed, with recorded events appended."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from offline.config import OfflineConfig
from offline.datasets.registry import DEMO, PUBLISHED, open_dataset
from offline.download import download
from offline.ingest import append_interactions, ingest
from offline.ingest_report import REPORT, IngestReport
from offline.recorded import RecordedEvents
from offline.steps import Step

log = logging.getLogger(__name__)

SOURCE_FILE = "source.json"
"""What the tables were made of: a cheap look (names, sizes, times of change) decides whether to read again."""

PENDING = "pending_watermark"
"""Its only key while tables are being made: up to where recorded events belong into them."""


def prepare_tables(config: OfflineConfig) -> Step:
    """Makes or reuses the tables; a data set that is not there is downloaded.

    Raises DataError where the raw files cannot be used; tables that are there stay as they are.
    """
    path = raw_files(config)
    look = json.dumps(_look(config, path), sort_keys=True)
    record = config.home / SOURCE_FILE
    unchanged = record.is_file() and (config.tables / REPORT).is_file() and record.read_text("utf-8") == look
    if unchanged:
        log.info("ingest: raw files unchanged, tables reused")
    else:
        before = max(_watermark(config), _pending(record))
        config.home.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({PENDING: before}), "utf-8")
        _tell(ingest(open_dataset(config.dataset, path), config.tables, max_bad_lines=config.max_bad_lines))
        if before:
            _append_again(config, before)
        record.write_text(look, "utf-8")
    return tables_step(config, reused=unchanged)


def append_events(config: OfflineConfig, events_file: Path) -> IngestReport:
    """Appends what was recorded since the tables were made; tables, ids and the watermark move together."""
    events, before = RecordedEvents(events_file), IngestReport.load(config.tables)
    last = events.last_row()
    if last <= before.events_watermark:
        log.info("ingest: no events recorded after row %d", before.events_watermark)
        return before
    report = append_interactions(
        config.tables, events.batches(after=before.events_watermark, until=last), watermark=last
    )
    log.info("ingest: %d events appended, up to row %d", report.appended - before.appended, last)
    _tell(report)
    return report


def _append_again(config: OfflineConfig, before: int) -> None:
    if config.events_file.is_file():
        append_events(config, config.events_file)
    else:
        log.warning(
            "ingest: events up to row %d are no longer in the tables, and %s is not there; append them with "
            "`python -m offline ingest --events-from FILE`",
            before,
            config.events_file,
        )


def tables_step(config: OfflineConfig, *, reused: bool) -> Step:
    """The tables as an input of other steps: their key is a digest of what ingest reported."""
    folder = config.tables.resolve()
    key = hashlib.sha256((folder / REPORT).read_bytes()).hexdigest()[:16]
    return Step("tables", key, folder, reused)


def raw_files(config: OfflineConfig) -> Path | None:
    """Where the raw files are: the folder that was named, else a download below the data root; None for `demo`."""
    if config.dataset == DEMO:
        return None
    if config.data_dir is not None or config.dataset not in PUBLISHED:
        return config.data_dir
    return download(config.dataset, config.root / "downloads")


def _look(config: OfflineConfig, path: Path | None) -> dict[str, Any]:
    root = Path(__file__).parent / "demo" if path is None else path
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.suffix != ".pyc")
    found = {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()}
    return {"dataset": config.dataset, "max_bad_lines": config.max_bad_lines, "files": found}


def _watermark(config: OfflineConfig) -> int:
    present = (config.tables / REPORT).is_file()
    return IngestReport.load(config.tables).events_watermark if present else 0


def _pending(record: Path) -> int:
    """The watermark that the tables had before an ingest that did not end."""
    content = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    return int(content.get(PENDING, 0))


def _tell(report: IngestReport) -> None:
    for line in report.lines():
        log.info("%s", line)
