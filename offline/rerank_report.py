"""The price of coverage, in full: the curve on validation, the setting it chooses, and both on the test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from offline.evaluate import RANKED, measure, produce_lists
from offline.rerank import RerankConfig
from offline.rerank_curve import CUT, Point, choose, curve, save_curve, sweep
from offline.targets import TargetKind
from offline.workflow import Workflow

COVERAGE = 0.23
"""What is asked for by default: EASE's coverage@10 on protocol A."""


def report_rerank(
    workflow: Workflow,
    folder: Path,
    *,
    kind: TargetKind = "all",
    coverage: float = COVERAGE,
    settings: Sequence[RerankConfig] = (),
) -> Point:
    """Writes `rerank-validation` and `rerank-test`, each .json and .png, and `rerank-chosen.json` into `folder`.

    `settings` (by default `sweep()`) are tried on validation; the best that covers at least `coverage` there is the
    choice, and what is returned is its point on the test. Raises DataError where no setting covers as much.
    """
    tried, config, seed = list(settings or sweep()), workflow.config.bootstrap, workflow.config.seed
    validation = workflow.models(workflow.validation_stage)
    held_out = workflow.plan.validation.ask(validation.snapshot, workflow.plan.labels)
    points = curve(validation, held_out, tried, bootstrap=config, seed=seed)
    save_curve(points, folder, name="rerank-validation", systems={})
    chosen = choose(points, coverage=coverage)
    models, targets = workflow.models(), workflow.test_targets(kind)
    tested = curve(models, targets, tried, bootstrap=config, seed=seed)
    lists = produce_lists(models, targets)
    rows = measure(lists, models.snapshot, targets, name="", kind=kind, config=config).rows
    beside = {
        row.system: (row.coverage[CUT], row.figures[f"ndcg@{CUT}"].mean)
        for row in rows
        if row.group == "warm" and row.system != RANKED
    }
    save_curve(tested, folder, name="rerank-test", systems=beside)
    facts = {"coverage": coverage, "settings": chosen.settings.model_dump(exclude_defaults=True)}
    (folder / "rerank-chosen.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return tested[tried.index(chosen.settings)]
