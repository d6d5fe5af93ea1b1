"""How cost grows with the catalogue, the log and the processes, and what faults cost: by file of the results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offline.studies.benchmark.machine import machine_text, versions_text

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.append(str(ROOT / "benchmarks"))

import growth as growth_benchmark  # noqa: E402 - found by the line above
import large as large_benchmark  # noqa: E402
import workers as workers_benchmark  # noqa: E402

from tests.faults import report as faults_report  # noqa: E402


def growth() -> str:
    """CPU per request by size of the catalogue."""
    return _made(RESULTS / "growth" / "ml-1m.json", growth_benchmark.table)


def large() -> str:
    """Training by size of the log."""
    return _made(RESULTS / "large" / "synthetic.json", large_benchmark.table)


def workers() -> str:
    """One and two processes per role, and the model."""
    return _made(RESULTS / "workers" / "ml-1m.json", workers_benchmark.tables)


def faults() -> str:
    """What callers saw of each fault."""
    return _made(RESULTS / "faults" / "ml-1m.json", faults_report.table)


def _made(path: Path, table: Callable[[Mapping[str, Any]], str]) -> str:
    if not path.exists():
        return "Nothing has been saved yet.\n"
    result = json.loads(path.read_text(encoding="utf-8"))
    commits = {run["commit"] for run in result.get("runs", {}).values()} | {result.get("commit")}
    made = f"{result['date']}; commit {' and '.join(sorted(filter(None, commits)))}"
    below = f"{made}; {machine_text(result['machine'])}; {versions_text(result['versions'])}."
    return f"{table(result)}\n\n{below}\n"
