"""`offline replay`: held-out requests, in time order, through a gateway."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from offline.commands.evaluate import EvaluateConfig
from offline.commands.output import say
from offline.commands.verb import Verb
from offline.evaluation import replay as replaying
from offline.evaluation.evaluate import measure, served_lists
from offline.evaluation.parity import compare
from offline.local.serve import served
from offline.workflow.config import OfflineConfig, Purpose
from offline.workflow.workflow import Workflow
from recsys.bundle import Bundle


class ReplayConfig(EvaluateConfig):
    """Send held-out requests, in time order, through a gateway.

    Quality and latency are measured on the same answers.
    """

    main_settings = (
        "target",
        "targets",
        "compare",
        "pacing.in_flight",
        "pacing.deadline_seconds",
        "dataset",
        "data_dir",
        "root",
        "config",
        "seed",
    )

    target: str | None = Field(
        default=None,
        description="HOST:PORT of a gateway that serves the evaluation bundle; by default one is started for the "
        "replay",
    )
    compare: bool = Field(
        default=True, description="also make the same lists in this process, and report how well they agree"
    )


def replay(config: ReplayConfig) -> None:
    """Prints quality and latency; without `--target` all servers are started on the evaluation bundle."""
    workflow = Workflow(config)
    if config.target is None:
        workflow.publish("evaluation", report=workflow.evaluation("all"))
    kind = config.targets or workflow.plan.kinds[0]
    targets = workflow.test_targets(kind)
    with _gateway(config) as address:
        bundle = _find(config, replaying.active_version(address))
        first = int(workflow.split.test_events.timestamps[0])
        result = replaying.replay(address, targets, kind=kind, bundle=bundle, first_event=first, config=config.pacing)
    models = workflow.models()
    measured = measure(
        {"replay": result.lists},
        models.snapshot,
        targets,
        name=config.dataset,
        kind=kind,
        config=config.bootstrap,
    )
    say(f"bundle {result.bundle_version}, through {address}\n{measured.table()}\n\n{result.latency.table()}")
    if config.compare:
        parity = compare(served_lists(models, targets), result.lists, targets)
        say(
            f"against the same lists made in this process: {parity.equal_entries:.2%} of the first ten positions are "
            f"equal, scores differ by {parity.score_difference:.1e} at most, "
            f"NDCG@10 by {parity.ndcg_difference:.1e}"
        )


def _find(config: OfflineConfig, version: str) -> Bundle:
    """The bundle of that version, whatever it was published for; raises BundleMissing where it is not ours."""
    purpose: Purpose = "production" if version in config.store("production").versions() else "evaluation"
    return config.store(purpose).open(version)


@contextmanager
def _gateway(config: ReplayConfig) -> Iterator[str]:
    if config.target is not None:
        yield config.target
        return
    with tempfile.TemporaryDirectory() as folder, served(config.store("evaluation"), folder=Path(folder)) as address:
        yield address


VERB = Verb(ReplayConfig, replay)
