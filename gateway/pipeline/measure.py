"""What the gateway measures about a request: time and candidates per stage, and whether it was degraded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.pipeline.stages import StageReport, Status
from recsys.server.telemetry import Telemetry

_OF_OTHER_PROCESSES = ("recall:", "rank")


class TimedResponse(Protocol):
    """A response that says how long the other process queued and computed."""

    @property
    def queue_microseconds(self) -> int:
        """Spent waiting for a worker."""

    @property
    def compute_microseconds(self) -> int:
        """Spent computing."""


def observe_call(telemetry: Telemetry, stage: str, *, seconds: float, response: TimedResponse) -> None:
    """Splits the time of an answered call into the server's queue, its computation, and the rest, the network."""
    queue, compute = response.queue_microseconds / 1e6, response.compute_microseconds / 1e6
    parts = {"queue": queue, "compute": compute, "network": max(0.0, seconds - queue - compute)}
    for part, value in parts.items():
        telemetry.stage_seconds.labels(stage, part, "ok").observe(value)


def observe_stages(telemetry: Telemetry, stages: Sequence[StageReport]) -> None:
    """Counts candidates and degradation, and the time of the stages that `observe_call` has not measured."""
    for stage in stages:
        status = stage.status.name.lower()
        telemetry.stage_candidates.labels(stage.name, "in").observe(stage.candidates_in)
        telemetry.stage_candidates.labels(stage.name, "out").observe(stage.candidates_out)
        remote = stage.name.startswith(_OF_OTHER_PROCESSES)
        if stage.status is not Status.OK:
            telemetry.degraded.labels(stage.name, status).inc()
        if stage.status is not Status.OK or not remote:
            part = "network" if remote else "compute"
            telemetry.stage_seconds.labels(stage.name, part, status).observe(stage.microseconds / 1e6)
