"""The price of coverage: the curve on validation, the setting it chooses, and that setting on the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offline.evaluation.evaluate import RERANKED, measure, produce_lists
from offline.evaluation.reranking.lists import RerankConfig
from offline.evaluation.results import SystemRow
from offline.protocols.targets import TargetKind
from offline.studies.rerank.curve import CUT, Point, choose, curve, save_curve
from offline.studies.rerank.result import CurvePoint, RerankRow
from offline.workflow.workflow import Workflow

DESCRIPTIVE = "descriptive, nothing is chosen on it"
"""The remark of files with a curve of the test."""


@dataclass(frozen=True, slots=True)
class RerankReport:
    """What was chosen, and what it does on the test."""

    chosen: RerankConfig
    rows: tuple[RerankRow, ...]
    """The chosen setting's, then the served order without it, then single channels."""
    curve: tuple[CurvePoint, ...]
    """On validation, in order of the settings that were tried."""
    users: int
    requests: int


def report_rerank(
    workflow: Workflow,
    folder: Path,
    *,
    kind: TargetKind,
    coverage: float,
    settings: Sequence[RerankConfig],
    test_curve: bool = False,
) -> RerankReport:
    """Tries `settings` on validation; the best that covers at least `coverage` there is the choice.

    It is written to `rerank-chosen.json` in `folder` before the test is asked; `rerank-validation`, .json and .png, is
    the curve. The test is asked for the choice, the order without it and single channels, nothing else, unless
    `test_curve` wants all settings there, too: `rerank-test`. `workflow` itself must not re-rank. Raises DataError
    where no setting covers as much.
    """
    validation = _validation_curve(workflow, settings)
    save_curve(validation, folder, name="rerank-validation", systems={})
    chosen = choose(validation, coverage=coverage)
    facts = {"coverage": coverage, "flags": flags_of(chosen.settings), "settings": _changed(chosen.settings)}
    (folder / "rerank-chosen.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    models, targets, config = workflow.models(), workflow.test_targets(kind), workflow.config
    tried = settings if test_curve else [chosen.settings]
    tested = curve(models, targets, tried, bootstrap=config.bootstrap, seed=config.seed)
    wanted = [models.policy.ranking, *(channel.name for channel in models.channels)]
    lists = produce_lists(models, targets, wanted)
    measured = measure(lists, models.snapshot, targets, name="", kind=kind, config=config.bootstrap)
    references = [measured.row(system) for system in wanted]
    if test_curve:
        references_by_system = {row.system: (row.coverage[CUT], row.figures[f"ndcg@{CUT}"].mean) for row in references}
        save_curve(tested, folder, name="rerank-test", systems=references_by_system, remark=DESCRIPTIVE)
    return RerankReport(
        chosen.settings,
        (_chosen_row(chosen, tested[tried.index(chosen.settings)]), *(_reference_row(row) for row in references)),
        tuple(CurvePoint(flags_of(point.settings), point.ndcg, point.coverage) for point in validation),
        users=references[0].users,
        requests=references[0].requests,
    )


def flags_of(settings: RerankConfig) -> str:
    """The flags with which every verb that publishes re-ranks in this way; empty where it does not."""
    if settings.policy() is None:
        return ""
    return " ".join(f"--rerank.{name.replace('_', '-')} {value:g}" for name, value in _changed(settings).items())


def _validation_curve(workflow: Workflow, settings: Sequence[RerankConfig]) -> list[Point]:
    models = workflow.models(workflow.validation_fit)
    held_out = workflow.plan.validation.ask(models.snapshot, workflow.plan.labels)
    return curve(models, held_out, settings, bootstrap=workflow.config.bootstrap, seed=workflow.config.seed)


def _changed(settings: RerankConfig) -> dict[str, float]:
    return settings.model_dump(exclude_defaults=True)


def _chosen_row(validation: Point, test: Point) -> RerankRow:
    measured = f"on validation {validation.ndcg.mean:.4f} at {validation.coverage:.3f}"
    note = f"{flags_of(test.settings) or 'as ranked'}; {measured}"
    return RerankRow(RERANKED, test.ndcg, test.hit_rate, test.coverage, test.popularity, note)


def _reference_row(row: SystemRow) -> RerankRow:
    figures = (row.figures[f"ndcg@{CUT}"], row.figures[f"hit_rate@{CUT}"])
    return RerankRow(row.system, *figures, row.coverage[CUT], row.popularity[CUT])
