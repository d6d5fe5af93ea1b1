"""Our own systems in a benchmark: channels alone, the blended and the ranked order."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from offline.evaluation.evaluate import BLENDED, RANKED, RERANKED, Lists, produce_lists
from offline.protocols.targets import Targets
from offline.ranking.rankers.choice import RankerChoice
from offline.studies.benchmark.costs import TrainingCost, cost_of
from offline.workflow.workflow import Workflow

WHOLE = (BLENDED, RANKED, RERANKED)
"""Systems that need every channel and, two of them, a ranker."""


@dataclass(frozen=True, slots=True)
class OwnRun:
    """The lists of one of our systems, and what its training cost."""

    system: str
    lists: Lists
    cost: TrainingCost
    note: str = ""


def names_of_ours(workflow: Workflow) -> tuple[str, ...]:
    """The systems that a configuration may have; the last only where something is re-ranked."""
    return (*workflow.config.serving.channels, *WHOLE)


def run_ours(workflow: Workflow, targets: Targets, wanted: Collection[str]) -> list[OwnRun]:
    """Trains what `wanted` needs, and asks it. Without a blended or ranked list among them no ranker is trained."""
    fit = workflow.plan.evaluation
    if not wanted:
        return []
    whole = bool(set(WHOLE) & set(wanted))
    models = workflow.models() if whole else workflow.channels_alone(fit.training_view)
    notes = _notes(models.policy.ranking, RankerChoice.load(workflow.ranking.choice.folder)) if whole else {}
    return [
        OwnRun(system, made, _cost(workflow, system), notes.get(system, ""))
        for system, made in produce_lists(models, targets, wanted).items()
    ]


def _notes(served: str, choice: RankerChoice) -> dict[str, str]:
    """By system: which order is served, and for the ranked one which ranker it is and why."""
    notes = {RANKED: choice.figures()}
    return notes | {served: "; ".join(["what validation chose to serve", *filter(None, [notes.get(served)])])}


def _cost(workflow: Workflow, system: str) -> TrainingCost:
    """Of a channel, its training for the test; of whole systems, also all that chose and taught them."""
    root, used = workflow.workspace.root, workflow.workspace.used
    if system not in WHOLE:
        return cost_of([workflow.recall.models(workflow.plan.evaluation.training_view).channels[system]])
    if system == BLENDED:
        views = (workflow.plan.evaluation.training_view, workflow.plan.validation.training_view)
        parts = tuple(part for view in views for part in workflow.recall.models(view).parts)
        return cost_of(parts, [root / name for name in used if name.startswith("blend-")])
    return cost_of([], [root / name for name in used])
