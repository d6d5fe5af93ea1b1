"""Runs in MLflow, for people who compare many of them; nothing reads them back."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from offline.studies.benchmark.results import QUOTED, BenchmarkResult

if TYPE_CHECKING:
    from offline.studies.benchmark.tuning import Tuned

log = logging.getLogger(__name__)


def track_result(uri: str, result: BenchmarkResult) -> None:
    """One run per row that has figures, below an experiment of the result's name. An empty `uri` logs nothing."""
    shared = {"dataset": result.dataset, "protocol": result.protocol, "targets": result.targets}
    for row in result.rows:
        if row.origin in QUOTED or row.figures is None:
            continue
        figures = {metric: figure.mean for metric, figure in row.figures.items()}
        extras = {"coverage@10": row.coverage, "popularity@10": row.popularity, "cpu_seconds": row.cpu_seconds}
        figures |= {name: value for name, value in extras.items() if value is not None}
        _track(uri, result.name, row.system, settings={**shared, "origin": row.origin}, figures=figures)


def track_tuning(uri: str, place: str, tuned: Tuned) -> None:
    """One run per search: the chosen settings and their validation figure."""
    figures = {f"validation_{tuned.metric}": tuned.value, "cpu_seconds": tuned.cpu_seconds}
    _track(uri, f"tune-{place}", tuned.model, settings=tuned.settings, figures=figures)


def _track(
    uri: str, experiment: str, run: str, *, settings: Mapping[str, object], figures: Mapping[str, float]
) -> None:
    if not uri:
        return
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
    except ImportError:
        log.warning("MLflow is not installed: the run is not logged; install the extra `bench`, or pass --tracking ''")
        return
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=run):
        mlflow.log_params(dict(settings))
        mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in figures.items()})
