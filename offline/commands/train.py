"""`offline train`: models, without measuring or releasing them."""

from __future__ import annotations

from offline.commands.verb import Verb
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow


class TrainConfig(OfflineConfig):
    """Train every recall channel and the ranker at every cut-off."""

    main_settings = (
        "dataset",
        "data_dir",
        "root",
        "config",
        "serving.channels",
        "split.protocol",
        "two_tower.tower",
        "ranker.kind",
        "samples.max_users",
        "text.source",
    )


def train(config: TrainConfig) -> None:
    """Everything that the protocol's bundles are made of."""
    workflow = Workflow(config)
    workflow.parts("evaluation")
    if workflow.plan.production is not None:
        workflow.parts("production")


VERB = Verb(TrainConfig, train)
