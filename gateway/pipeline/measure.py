"""What the gateway measures about a request: time and candidates per stage, and whether it was degraded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gateway.pipeline.stages import StageReport, Status
from recsys.server.telemetry import Telemetry

_OF_OTHER_PROCESSES = ("recall:", "rank")
_NOT_ANSWERED = (Status.TIMEOUT, Status.FAILED, Status.SKIPPED)
_NAMES = {status: status.name.lower() for status in Status}


class TimedResponse(Protocol):
    """A response that says how long the other process queued and computed."""

    @property
    def queue_microseconds(self) -> int:
        """Between the arrival of the call and the beginning of its computing."""

    @property
    def compute_microseconds(self) -> int:
        """Spent computing."""


def observe_call(telemetry: Telemetry, stage: str, *, seconds: float, response: TimedResponse) -> None:
    """Splits the time of an answered call into the server's queue, its computation, and the rest, the network."""
    queue, compute = response.queue_microseconds / 1e6, response.compute_microseconds / 1e6
    part = telemetry.stage_seconds.labels
    part(stage, "queue", "ok").observe(queue)
    part(stage, "compute", "ok").observe(compute)
    part(stage, "network", "ok").observe(max(0.0, seconds - queue - compute))


def observe_stages(telemetry: Telemetry, stages: Sequence[StageReport]) -> None:
    """Counts candidates and degradation, and the time of the stages that `observe_call` has not measured."""
    for stage in stages:
        name, status, remote = stage.name, stage.status, stage.name.startswith(_OF_OTHER_PROCESSES)
        telemetry.stage_candidates.labels(name, "in").observe(stage.candidates_in)
        telemetry.stage_candidates.labels(name, "out").observe(stage.candidates_out)
        if status is not Status.OK:
            telemetry.degraded.labels(name, _NAMES[status]).inc()
        if not remote or status in _NOT_ANSWERED:
            part = "network" if remote else "compute"
            telemetry.stage_seconds.labels(name, part, _NAMES[status]).observe(stage.microseconds / 1e6)
