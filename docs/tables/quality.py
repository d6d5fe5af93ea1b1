"""The results of benchmarks, as they are committed."""

from __future__ import annotations

from pathlib import Path

from offline.studies.benchmark.loss_result import losses_page
from offline.studies.benchmark.report import results_page
from offline.studies.rerank.result import rerank_page

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def benchmarks() -> str:
    """One section per result, then one per curve of NDCG against coverage."""
    return "\n".join(page for page in (results_page(RESULTS), rerank_page(RESULTS / "rerank")) if page)


def losses() -> str:
    """One section per comparison of losses."""
    return losses_page(RESULTS / "losses")
