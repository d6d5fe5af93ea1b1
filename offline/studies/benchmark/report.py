"""The page of all results: one section per benchmark, each with its command and machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from offline.studies.benchmark.machine import machine_text, versions_text
from offline.studies.benchmark.results import BenchmarkResult, load_results
from offline.studies.benchmark.table import markdown_table, title

ORDER = ("time-to-split", "temporal", "leave-one-out", "random-60-20-20", "strong-generalisation")


def results_page(folder: Path) -> str:
    """Markdown of every result below `folder`, in order of protocols, then of names."""
    results = sorted(load_results(folder), key=lambda result: (ORDER.index(result.protocol), result.name))
    if not results:
        return "No benchmark was run yet: `python -m offline benchmark`.\n"
    return "\n".join(_section(result) for result in results)


def machines(results: Sequence[BenchmarkResult]) -> str:
    """The machines of the results, each once."""
    return "; ".join(dict.fromkeys(machine_text(result.machine) for result in results))


def _section(result: BenchmarkResult) -> str:
    return (
        f"### {title(result)}\n\n"
        f"```sh\n{result.command}\n```\n\n"
        f"{markdown_table(result)}\n\n"
        f"{result.date}, {machines([result])}; {_budget(result)}. {versions_text(result.versions)}.\n"
    )


def _budget(result: BenchmarkResult) -> str:
    """What models were given, and whether all of them kept to it."""
    given = f"{result.budget_minutes:g} CPU-minutes per model, tuning included"
    if any(result.overran(row) for row in result.rows):
        return f"budget {given}, which the rows that say so overran"
    return f"at most {given}"
