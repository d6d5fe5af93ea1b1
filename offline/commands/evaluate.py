"""`offline evaluate`: how good the lists are, on what nothing was chosen on."""

from __future__ import annotations

from pydantic import Field

from offline.commands.output import say_report
from offline.commands.verb import Verb
from offline.protocols.targets import TargetKind
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow


class EvaluateConfig(OfflineConfig):
    """Measure channels, blended and ranked order on held-out data."""

    main_settings = (
        "targets",
        "dataset",
        "data_dir",
        "root",
        "config",
        "split.protocol",
        "serving.channels",
        "ranker.kind",
        "bootstrap.resamples",
        "seed",
    )

    targets: TargetKind | None = Field(
        default=None,
        description="all: one request per test user at the cut-off, with every later item relevant; successive: one "
        "request per later event; last: one request for each user's last event; by default what the "
        "protocol uses",
    )


def evaluate(config: EvaluateConfig) -> None:
    """Prints the table and says where the whole report is."""
    workflow = Workflow(config)
    say_report(workflow.evaluation(config.targets or workflow.plan.kinds[0]))


VERB = Verb(EvaluateConfig, evaluate)
