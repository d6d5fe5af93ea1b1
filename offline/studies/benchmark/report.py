"""Results as Markdown: one section per benchmark, each with its command and machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from offline.studies.benchmark.machine import machine_text, versions_text
from offline.studies.benchmark.results import BenchmarkResult, load_results
from offline.studies.benchmark.table import counts, heading, markdown_table

ORDER = ("time-to-split", "temporal", "leave-one-out", "random-60-20-20", "strong-generalisation")


def results_page(folder: Path) -> str:
    """Every result below `folder` under a heading."""
    results = ordered_results(folder)
    if not results:
        return "No benchmark was run yet: `python -m offline benchmark`.\n"
    return "\n".join(f"### {heading(result)}\n\n{result_section(result)}" for result in results)


def ordered_results(folder: Path) -> list[BenchmarkResult]:
    """All results below `folder`, in order of protocols, then of names."""
    return sorted(load_results(folder), key=lambda result: (ORDER.index(result.protocol), result.name))


def result_section(result: BenchmarkResult) -> str:
    """Command, tables, differences and machine of one result, without a heading."""
    return (
        f"{counts(result)}.\n\n"
        f"```sh\n{result.command}\n```\n\n"
        f"{markdown_table(result)}\n\n"
        f"{result.date}, {machines([result])}; {_budget(result)}. {versions_text(result.versions)}.\n"
    )


def machines(results: Sequence[BenchmarkResult]) -> str:
    """The machines of the results, each once."""
    return "; ".join(dict.fromkeys(machine_text(result.machine) for result in results))


def _budget(result: BenchmarkResult) -> str:
    """What models were given, and whether all of them kept to it."""
    given = f"{result.budget_minutes:g} CPU-minutes per model, tuning included"
    if any(result.overran(row) for row in result.rows):
        return f"budget {given}, which the rows with that note overran"
    return f"at most {given}"
