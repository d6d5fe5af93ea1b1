"""What each verb does, in terms of the workflow. Every function takes its typed configuration and nothing else."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from offline.evaluation import replay as replaying
from offline.evaluation.evaluate import measure, served_lists
from offline.evaluation.parity import compare
from offline.ingest import download as downloading
from offline.ingest.prepare import append_events, prepare_tables
from offline.local.serve import serve_until_interrupted, served
from offline.protocols.targets import TargetKind
from offline.publish.publish import REPORT_FOLDER
from offline.publish.publish import rollback as release_previous
from offline.steps.workspace import Step
from offline.studies.benchmark.config import BenchmarkConfig, TuneConfig
from offline.studies.benchmark.report import results_page
from offline.studies.benchmark.runs import run_benchmark
from offline.studies.benchmark.table import text_table
from offline.studies.benchmark.tracking import track_result, track_tuning
from offline.workflow.config import OfflineConfig, Purpose
from offline.workflow.workflow import Workflow
from recsys.bundle import Bundle
from recsys.errors import CannotStart

log = logging.getLogger(__name__)


class IngestConfig(OfflineConfig):
    """From raw files, or from recorded events, to tables."""

    events: bool = Field(default=False, description="append what the gateway recorded since the tables were made")
    events_from: Path | None = Field(default=None, description="the gateway's events file; absent: that of `serve`")


class EvaluateConfig(OfflineConfig):
    """How good the lists are, on what nothing was chosen on."""

    targets: TargetKind | None = Field(
        default=None,
        description="all: one request per test user at the cut-off, every later item is relevant; successive: one "
        "request per later event; last: the same for each user's last event; absent: the protocol's own",
    )


class ReplayConfig(EvaluateConfig):
    """Held-out requests, in time order, through a gateway: quality and latency of the same answers."""

    target: str | None = Field(
        default=None, description="HOST:PORT of a gateway on the evaluation bundle; absent: one is started here"
    )
    compare: bool = Field(default=True, description="make the same lists in this process and say how far they agree")


class RollbackConfig(OfflineConfig):
    """Back to the bundle before the current one."""

    purpose: Purpose = Field(default="production", description="which bundles")


class ServeConfig(OfflineConfig):
    """Everything of `run`, and where the servers listen."""

    port_offset: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="added to every port, gRPC and metrics: to serve beside another system, or where a port is taken",
    )


def download(config: OfflineConfig) -> None:
    """Fetches the data set's zip."""
    log.info("%s is at %s", config.dataset, downloading.download(config.dataset, config.root / "downloads"))


def ingest(config: IngestConfig) -> None:
    """Raw files to tables; with `--events` recorded events are appended to them."""
    prepare_tables(config.ingest_inputs)
    if config.events or config.events_from:
        append_events(config.ingest_inputs, config.events_from or config.events_file)


def train(config: OfflineConfig) -> None:
    """Everything that the protocol's bundles are made of."""
    workflow = Workflow(config)
    workflow.parts("evaluation")
    if workflow.plan.production is not None:
        workflow.parts("production")


def evaluate(config: EvaluateConfig) -> None:
    """Prints the table and says where the whole report is."""
    workflow = Workflow(config)
    _print_report(workflow.evaluation(config.targets or workflow.plan.kinds[0]))


def publish(config: OfflineConfig) -> None:
    """Releases both bundles, each with the evaluation of the first."""
    workflow = Workflow(config)
    _publish(workflow, workflow.evaluation("all"))


def rollback(config: RollbackConfig) -> None:
    """Releases the bundle before the current one."""
    release_previous(config.store(config.purpose))


def run(config: OfflineConfig) -> None:
    """All of it: ingest, train, evaluate, publish."""
    started = time.monotonic()
    workflow = Workflow(config)
    if workflow.plan.production is None:
        raise workflow.plan.not_served()
    report = workflow.evaluation("all")
    _print_report(report)
    _publish(workflow, report)
    workflow.workspace.prune()
    workflow.workspace.release()
    log.info("offline run: %.0f s", time.monotonic() - started)


def serve(config: ServeConfig) -> None:
    """`run`, then the five servers until Ctrl-C."""
    run(config)
    serve_until_interrupted(
        config.store("production"),
        events_folder=config.events_file.parent,
        logs=config.home / "logs",
        port_offset=config.port_offset,
    )


def replay(config: ReplayConfig) -> None:
    """Prints quality and latency; without `--target` the five servers are started on the evaluation bundle."""
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
    _say(f"bundle {result.bundle_version}, through {address}\n{measured.table()}\n\n{result.latency.table()}")
    if config.compare:
        agreement = compare(served_lists(models, targets), result.lists, targets)
        _say(
            f"against the same lists made in this process: {agreement.equal_entries:.2%} of the first ten places are "
            f"equal, scores differ by {agreement.score_difference:.1e} at most, "
            f"NDCG@10 by {agreement.ndcg_difference:.1e}"
        )


def benchmark(config: BenchmarkConfig) -> None:
    """Prints and saves the table; with `--report` the page of all saved results."""
    if config.report:
        _say(results_page(config.results).rstrip())
        return
    result = run_benchmark(config)
    _say(text_table(result))
    log.info("saved as %s", result.save(config.results))
    track_result(config.tracking, result)


def tune(config: TuneConfig) -> None:
    """Searches settings, model by model, and saves what was chosen; raises CannotStart without the extra `bench`."""
    try:
        from offline.studies.benchmark.tuning import tune as search_settings
    except ImportError as error:
        raise CannotStart(f"tuning needs the extra `bench` ({error}); pip install -e '.[bench]'") from error
    for model in config.models:
        tuned = search_settings(config, model)
        tuned.save(config.settings / config.place)
        _say(f"{model}: validation {tuned.metric} {tuned.value:.4f}, {tuned.cpu_seconds:.0f} CPU s, {tuned.settings}")
        track_tuning(config.tracking, config.place, tuned)


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


def _publish(workflow: Workflow, report: Step) -> None:
    for purpose in ("evaluation", "production"):
        workflow.publish(purpose, report=report)


def _print_report(report: Step) -> None:
    folder = report.folder / REPORT_FOLDER
    _say((folder / "table.txt").read_text("utf-8").rstrip())
    log.info("the whole report, with intervals, is in %s", folder)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
