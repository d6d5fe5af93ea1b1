"""The races of the servers, as they are committed: one part per data set."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "serving"
sys.path.append(str(ROOT / "benchmarks"))

from race import report  # noqa: E402 - found by the line above
from race.results import Race  # noqa: E402


def sections() -> dict[str, Callable[[], str]]:
    """By name of its part, what makes the tables of each committed race."""
    return {f"result-serving-{path.stem}": partial(_race, path) for path in sorted(RESULTS.glob("*.json"))}


def _race(path: Path) -> str:
    race = Race.load(path)
    made = [f"### {title}\n\n{table}\n" for title, table in report.sections(race)]
    return "\n".join([f"```sh\n{race.facts['command']}\n```\n", report.facts(race), "", *made])
