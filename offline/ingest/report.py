"""What an ingest read, wrote, dropped and flagged; saved next to the tables as ingest.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from offline.ingest.datasets.findings import Finding, Findings
from recsys.errors import DataMalformed, DataMissing

REPORT = "ingest.json"
FORMAT = 1
"""Version of the tables' format."""
UNNAMED_LOG = "unnamed"
"""Stands for the log of tables from before logs had ids; no file has this id."""


@dataclass(frozen=True)
class IngestReport:
    """Everything about one version of the tables."""

    dataset: str
    inputs: Mapping[str, Mapping[str, int | str]]
    """Size in bytes and sha256 by input."""
    rating_range: tuple[float, float]
    rows: Mapping[str, int]
    """Rows written by table."""
    rows_read: Mapping[str, int]
    """Rows read by table, before anything was dropped; bad lines are not among them."""
    first_timestamp: int
    last_timestamp: int
    bad_lines: Finding
    """Unparseable lines that `max_bad_lines` allowed to skip."""
    dropped: Mapping[str, Finding]
    """Readable but invalid rows by "table: reason"."""
    warnings: tuple[str, ...]
    appended: int = 0
    """How many recorded events were appended since the data set was read."""
    events_watermarks: Mapping[str, int] = field(default_factory=dict)
    """Row id of the last recorded event that the tables hold, by log id of the events file that it is in."""
    format: int = field(default=FORMAT)

    def save(self, tables: Path) -> None:
        """Writes ingest.json."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (tables / REPORT).write_text(text + "\n", "utf-8")

    @classmethod
    def load(cls, tables: Path) -> IngestReport:
        """Reads ingest.json. Raises DataMissing where there is none, DataMalformed for one of another format."""
        path = tables / REPORT
        if not path.is_file():
            raise DataMissing(f"{path}: no such file; write the tables with `python -m offline ingest`")
        try:
            content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except json.JSONDecodeError as error:
            raise DataMalformed(f"{path}: not JSON ({error}); ingest the data set again") from error
        if content.get("format") != FORMAT:
            raise DataMalformed(
                f"{path}: tables of format {content.get('format')}, expected {FORMAT}; ingest the data set again"
            )
        if "events_watermark" in content:  # before logs had ids: the number is of a log without an id
            watermark = content.pop("events_watermark")
            content["events_watermarks"] = {UNNAMED_LOG: watermark} if watermark else {}
        content["bad_lines"] = Finding(**content["bad_lines"])
        content["dropped"] = {reason: Finding(**finding) for reason, finding in content["dropped"].items()}
        content["rating_range"] = tuple(content["rating_range"])
        content["warnings"] = tuple(content["warnings"])
        return cls(**content)

    def lines(self) -> list[str]:
        """The report in a few lines for people."""
        lines = [f"{self.dataset}: " + ", ".join(f"{count:,} {table}" for table, count in self.rows.items() if count)]
        if self.bad_lines.count:
            lines.append(f"skipped {self.bad_lines.count:,} unparseable lines, first {self.bad_lines.examples[0]}")
        for reason, finding in self.dropped.items():
            lines.append(f"dropped {finding.count:,} ({reason}), first {finding.examples[0]}")
        return [*lines, *(f"warning: {warning}" for warning in self.warnings)]


def findings_of(report: IngestReport) -> Findings:
    """The findings of a report, to add to."""
    findings = Findings()
    findings.bad_lines = report.bad_lines
    findings.dropped = dict(report.dropped)
    findings.warnings = list(report.warnings)
    findings.rows_read = dict(report.rows_read)
    return findings
