"""The races of the servers, as they are committed."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "serving"
sys.path.append(str(ROOT / "benchmarks"))

from race import report  # noqa: E402 - found by the line above
from race.results import Race  # noqa: E402


def races() -> str:
    """What each race ran on, and its tables."""
    made = [_race(path) for path in sorted(RESULTS.glob("*.json"))]
    return "\n".join(made) or "No race has been saved yet.\n"


def _race(path: Path) -> str:
    race = Race.load(path)
    tables = [f"### {title}\n\n{table}\n" for title, table in report.sections(race)]
    return "\n".join([f"## {path.stem}\n\n```sh\n{race.facts['command']}\n```\n", f"{report.facts(race)}\n", *tables])
