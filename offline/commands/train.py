"""`offline train`: models, without measuring or releasing them."""

from __future__ import annotations

from offline.commands.verb import Verb
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow


def train(config: OfflineConfig) -> None:
    """Everything that the protocol's bundles are made of."""
    workflow = Workflow(config)
    workflow.parts("evaluation")
    if workflow.plan.production is not None:
        workflow.parts("production")


VERB = Verb("train every recall channel and the ranker at every cut-off", OfflineConfig, train)
