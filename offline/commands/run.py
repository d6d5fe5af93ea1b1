"""`offline run`: from raw files to two released bundles."""

from __future__ import annotations

import logging
import time

from offline.commands.output import say_report
from offline.commands.publish import publish_both
from offline.commands.verb import Verb
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow

log = logging.getLogger(__name__)


class RunConfig(OfflineConfig):
    """Ingest, train, evaluate and publish; skip what has not changed."""

    main_settings = (
        "dataset",
        "rows",
        "data_dir",
        "metadata_file",
        "root",
        "config",
        "serving.channels",
        "split.protocol",
        "two_tower.tower",
        "ranker.kind",
    )


def run(config: RunConfig) -> None:
    """All of it: ingest, train, evaluate, publish."""
    started = time.monotonic()
    workflow = Workflow(config)
    if workflow.plan.production is None:
        raise workflow.plan.not_served()
    report = workflow.evaluation("all")
    say_report(report)
    publish_both(workflow, report)
    workflow.workspace.prune()
    workflow.workspace.release()
    log.info("offline run: %.0f s", time.monotonic() - started)


VERB = Verb(RunConfig, run)
