"""Our own systems in a benchmark: channels alone, the blended and the ranked order."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

from offline.benchmark.costs import TrainingCost, cost_of, cost_of_folders
from offline.evaluate import BLENDED, RANKED, RERANKED, Lists, produce_lists
from offline.targets import Targets
from offline.workflow import Workflow

log = logging.getLogger(__name__)

WHOLE = (BLENDED, RANKED, RERANKED)
"""Systems that need every channel and, two of them, a ranker."""
STEPS = {"vector": "two-tower"}
"""The training step of a channel, where it is not named like the channel."""


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
    stage = workflow.plan.evaluation
    if not wanted:
        return []
    whole = bool(set(WHOLE) & set(wanted))
    models = workflow.models() if whole else workflow.channels_alone(stage.knowledge)
    served = models.policy.ranking if whole else None
    recall = workflow.recall_of(stage.knowledge)
    lists = produce_lists(models, targets, wanted)
    costs: dict[str, TrainingCost] = {}
    for system in lists:
        if system in WHOLE:
            costs[system] = cost_of_folders(workflow.workspace.root, workflow.workspace.used)
        else:
            costs[system] = cost_of([part for part in recall.parts if part.name == STEPS.get(system, system)])
    return [
        OwnRun(system, made, costs[system], "what validation chose to serve" if system == served else "")
        for system, made in lists.items()
    ]
