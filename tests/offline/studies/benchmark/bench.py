"""What tests of the bench share: a result with a row of each kind, and rows for peers."""

from __future__ import annotations

from pathlib import Path

from offline.evaluation.results import Figure
from offline.protocols import Plan
from offline.protocols.targets import Targets
from offline.studies.benchmark.results import BenchmarkResult, BenchmarkRow, GroupRows, PairedDifference
from offline.studies.benchmark.rows import export_rows


def exported(plan: Plan, targets: Targets, folder: Path, *, seed: int = 1) -> str:
    """Writes the rows for peers into `folder` and gives their digest."""
    return export_rows(plan, targets, folder, dataset="tastes", kind="last", metric="ndcg@10", seed=seed)


def a_result() -> BenchmarkResult:
    """One row each of what others published, a peer, a peer that was not run, and ours; cold users apart."""
    newcomers = BenchmarkRow("ranked", "ours", {"ndcg@10": Figure(0.02, 0.01, 0.03)}, 0.1, 0.7)
    cold = GroupRows("cold users", 29, 31, (newcomers,))
    rows = (
        BenchmarkRow("Famous", "published", {"ndcg@10": Figure(0.2, 0.2, 0.2)}, note="a paper"),
        BenchmarkRow("ease (toy 1)", "peer", {"ndcg@10": Figure(0.1, 0.05, 0.15)}, 0.5, 0.9, 12.0, 1 << 20),
        BenchmarkRow("hstu", "peer", note="not run: needs 7 CPU-hours"),
        BenchmarkRow("ranked", "ours", {"ndcg@10": Figure(0.3, 0.25, 0.35)}, 0.4, 0.8, 99.0, 2 << 20, "served"),
    )
    return BenchmarkResult(
        "leave-one-out", "tastes", "last", "all users", ("ndcg@10",), 160, 160, 60, "python -m offline benchmark",
        "2026-01-02", 60.0, {"cpu": "toy", "cores": 2, "memory_gib": 8.0, "system": "x"}, {"python": "3.11"}, rows,
        (PairedDifference("ranked", "ease (toy 1)", "ndcg@10", 0.2, 0.1, 0.3),), ("imputed times",), apart=(cold,),
    )  # fmt: skip
