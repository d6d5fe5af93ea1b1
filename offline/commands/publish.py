"""`offline publish`: both bundles, released."""

from __future__ import annotations

from offline.commands.verb import Verb
from offline.steps.workspace import Step
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow


class PublishConfig(OfflineConfig):
    """Release the evaluation and the production bundle."""

    main_settings = (
        "dataset",
        "data_dir",
        "root",
        "config",
        "serving.channels",
        "serving.clock",
        "split.protocol",
        "ranker.kind",
        "rerank.exposure",
        "keep_bundles",
    )


def publish(config: PublishConfig) -> None:
    """Releases both bundles, each with the evaluation of the first."""
    workflow = Workflow(config)
    publish_both(workflow, workflow.evaluation("all"))


def publish_both(workflow: Workflow, report: Step) -> None:
    """Releases the evaluation bundle, then the production bundle, each with `report` in it."""
    for purpose in ("evaluation", "production"):
        workflow.publish(purpose, report=report)


VERB = Verb(PublishConfig, publish)
