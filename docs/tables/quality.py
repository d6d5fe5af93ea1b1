"""The results of benchmarks, as they are committed."""

from __future__ import annotations

from pathlib import Path

from offline.benchmark.report import results_page

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def benchmarks() -> str:
    """One section per result."""
    return results_page(RESULTS)
