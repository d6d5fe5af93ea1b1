"""A result of re-ranking, and a workflow of which only what is asked for is there."""

from __future__ import annotations

from types import SimpleNamespace

from offline.evaluation.evaluate import Figure
from offline.studies.rerank.result import CurvePoint, RerankResult, RerankRow
from offline.workflow.config import OfflineConfig


def a_result() -> RerankResult:
    figure, other = Figure(0.28, 0.27, 0.29), Figure(0.3, 0.29, 0.31)
    rows = (
        RerankRow("reranked", figure, figure, 0.24, 0.9, "--rerank.exposure 5"),
        RerankRow("als", other, other, 0.1, 0.9),
    )
    curve_points = (
        CurvePoint("", other, 0.1),
        CurvePoint("--rerank.exposure 5", other, 0.25),
    )
    machine: dict[str, str | int | float] = {"cpu": "toy", "cores": 2, "memory_gib": 8.0, "system": "x"}
    return RerankResult(
        "time-to-split", "toys", "all", 0.23, "--rerank.exposure 5", 770, 770, 3329, rows, curve_points,
        "python -m offline rerank", "2026-01-02", machine, {"python": "3.11"},
    )  # fmt: skip


class ToyWorkflow:
    """Models that one asks on two folds, and a record of nothing else: what is measured is said by the test."""

    validation_fit = "validation"

    def __init__(self, config: OfflineConfig) -> None:
        self.config = config
        self.recall = SimpleNamespace(models=lambda view: SimpleNamespace(item_ids=range(9)))
        label = "all"
        fold = SimpleNamespace(ask=lambda snapshot, kind: "validation", training_view=object())
        self.plan = SimpleNamespace(
            validation=fold,
            test=fold,
            labels=label,
            kinds=("all", "successive", "last"),
            check_kind=lambda kind: None,
            protocol=config.split.protocol,
        )

    def models(self, fit: str = "test") -> SimpleNamespace:
        channels = [SimpleNamespace(name="als")]
        return SimpleNamespace(snapshot=fit, policy=SimpleNamespace(ranking="ranked"), channels=channels)

    def test_targets(self, kind: str) -> str:
        return "test"
