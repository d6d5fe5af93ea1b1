"""Results of a run as JSON, and as a table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from offline.metrics.text_table import aligned, markdown
from offline.studies.benchmark.machine import machine, versions
from tests.faults.contract import Row
from tests.faults.system import ROOT

HEAD = (
    "fault", "requests", "failed", "outage, s", "late", "degraded", "events", "lost", "doubled",
    "recovery, s", "worst RSS, MiB", "× before", "verdict",
)  # fmt: skip


def result(rows: Sequence[Row], bundle: str) -> dict[str, Any]:
    """What is saved."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "bundle": bundle,
        "machine": machine(),
        "versions": versions(),
        "rows": [row.as_json() for row in rows],
    }


def save(path: Path, found: Mapping[str, Any]) -> None:
    """Adds rows to what is there of the same commit; a fault that was run again replaces its row."""
    rows = {row["fault"]: row for row in found["rows"]}
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        if old["commit"] == found["commit"]:
            rows = {**{row["fault"]: row for row in old["rows"]}, **rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**found, "rows": list(rows.values())}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def table(found: Mapping[str, Any]) -> str:
    """In Markdown, for docs/results/faults.md."""
    return markdown([HEAD, *(_cells(row) for row in found["rows"])])


def lines(rows: Sequence[Row]) -> list[str]:
    """For the terminal."""
    return aligned([HEAD, *(_cells(row.as_json()) for row in rows)])


def _cells(row: Mapping[str, Any]) -> list[str]:
    if row["not_possible"]:
        return [row["about"], *[""] * (len(HEAD) - 2), f"not possible here: {row['not_possible']}"]
    return [
        row["about"],
        f"{row['requests']:,}",
        str(row["failed"]),
        f"{row['outage_seconds']:.1f}",
        str(row["late"]),
        str(row["degraded"]),
        f"{row['events']:,}",
        str(row["lost"]),
        str(row["doubled"]),
        f"{row['recovery_seconds']:.1f}",
        f"{row['rss_mib']:.0f}",
        f"{row['rss_growth']:.2f}",
        "; ".join(row["problems"]) or "held",
    ]
