"""A server of the running system is killed or stopped, for good, while requests keep coming at a fixed rate.

Looks closely at what single answers say of the lost server. What faults of every kind cost callers: `tests/faults`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from gateway.bundle.state import StoredHistories
from offline.evaluation.open_loop import TimedAnswer, percentiles, send_at_rate
from offline.local.cluster import LocalCluster
from offline.local.ports import Ports
from offline.local.programs import programs
from offline.local.serve import wait_complete
from offline.local.watchdog import HANG_SECONDS
from recsys.bundle import BundleStore
from recsys.v1.recommend_pb2 import RecommendRequest
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub
from recsys.v1.types_pb2 import STAGE_STATUS_OK, STAGE_STATUS_SKIPPED, STAGE_STATUS_TIMEOUT
from tests.waiting import PATIENCE_SECONDS, eventually

ROLES = ("popularity", "itemcf", "vector", "rank")
RATE = 50.0

PLENTY = 25
"""Answers that waited in vain, half a second's worth, after which the gateway must know. Three in a row should do."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long it is quiet before a fault and after it has healed, and what the callers ask for, in seconds."""

    quiet: float = 20.0
    deadline: float = 2.0
    """What a caller allows; a request without an answer by then has failed."""
    late: float = 0.5
    """An answer that took longer is late: the gateway's budget, and the way there and back on a busy machine."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the clients saw."""

    role: str
    signal: str
    requests: int
    failed: list[str]
    late: int
    degraded_before: int
    degraded_during: int
    degraded_after: int
    blamed: set[str]
    """The stages that did less than all of their work in some answer."""
    skipped: int
    """Answers that did not ask the lost server, because it was known to be lost."""
    spared: int
    """The same of requests that were sent while the lost process was in its place and the gateway knew it was lost."""
    waited: int
    """Of requests sent then: those that were not, and waited for it until their time or the connection ended."""
    healing_seconds: float
    """From the fault until the server's answers are used again."""
    rejoin_seconds: float
    """The gateway's part of it: from the moment the server is healthy again until an answer is complete."""
    latency: dict[str, float]


@dataclass(slots=True)
class _Load:
    """Requests before the fault, during it for as long as `healed` is not set, and as many as before after it."""

    users: Sequence[int]
    quiet: int
    harm: Callable[[], None]
    healed: asyncio.Event = field(default_factory=asyncio.Event)
    unwell: int = 0
    sent: int = 0
    sent_in_vain: int = 0
    """Requests that had been sent when the lost process was last seen in its place."""

    def __iter__(self) -> Iterator[RecommendRequest]:
        for _ in range(self.quiet):
            yield self._next()
        self.harm()
        while not self.healed.is_set():
            self.unwell += 1
            yield self._next()
        for _ in range(self.quiet):
            yield self._next()

    def _next(self) -> RecommendRequest:
        self.sent += 1
        return RecommendRequest(user_id=int(self.users[self.sent * 37 % len(self.users)]), count=10, debug=True)


async def run_fault(cluster: LocalCluster, target: str, role: str, number: signal.Signals, terms: Terms) -> Outcome:
    """Sends `number` to the server of `role` under load; continues until it has healed, and a while longer."""
    users, harmed = StoredHistories.open(cluster.folder / "bundle").user_ids, asyncio.Event()
    lost = cluster.pids()[role]

    def harm() -> None:
        os.kill(lost, number)
        harmed.set()

    load = _Load(users, int(terms.quiet * RATE), harm)

    async def heal() -> float:
        try:
            await harmed.wait()
            return await asyncio.to_thread(_wait_healed, cluster, target, role, lost, load)
        finally:
            load.healed.set()

    samples, rejoin_seconds = await asyncio.gather(
        send_at_rate(target, load, rate=RATE, deadline_seconds=terms.deadline, ready_seconds=PATIENCE_SECONDS), heal()
    )
    return _outcome(samples, load, rejoin_seconds, role, number, terms)


def _wait_healed(cluster: LocalCluster, target: str, role: str, lost: int, load: _Load) -> float:
    """Returns when another process is in the place of `lost`, and the gateway uses it: after so many seconds of health.

    Notes in `load` what was sent while `lost` was in its place.
    """

    def replaced() -> bool:
        sent = load.sent  # read first: these were sent before the supervisor is asked
        pid = cluster.pids()[role]
        if pid == lost:
            load.sent_in_vain = sent
        return pid not in (0, lost)

    eventually(replaced, f"{role} is started again")
    cluster.wait_healthy(PATIENCE_SECONDS)
    healthy = time.monotonic()
    with grpc.insecure_channel(target) as channel:
        stub, request = RecommendationServiceStub(channel), RecommendRequest(user_id=int(load.users[0]), count=10)
        eventually(lambda: not stub.Recommend(request, timeout=PATIENCE_SECONDS).degraded, "an answer is complete")
    wait_complete(target, PATIENCE_SECONDS)
    return time.monotonic() - healthy


def stage_of(role: str) -> str:
    """The stage of an answer that the server of `role` works for."""
    return role if role == "rank" else f"recall:{role}"


def _outcome(
    samples: Sequence[TimedAnswer], load: _Load, rejoin_seconds: float, role: str, number: signal.Signals, terms: Terms
) -> Outcome:
    harmed, quiet = (load.quiet - 1) / RATE, load.quiet  # at the earliest: the next request was asked for by then
    before = [sample for sample in samples[:quiet] if sample.due + sample.latency < harmed]
    stages = [stage for sample in samples if sample.response is not None for stage in sample.response.stages]
    knowing = [_status(sample, role) for sample in _sent_knowing(samples[quiet : load.sent_in_vain], role)]
    return Outcome(
        role,
        number.name,
        len(samples),
        [sample.error for sample in samples if sample.error],
        sum(sample.latency > terms.late for sample in samples),
        _degraded(before),
        _degraded(samples[quiet:-quiet]),
        _degraded(samples[-quiet:]),
        {stage.name for stage in stages if stage.status != STAGE_STATUS_OK},
        sum(_status(sample, role) == STAGE_STATUS_SKIPPED for sample in samples),
        knowing.count(STAGE_STATUS_SKIPPED),
        len(knowing) - knowing.count(STAGE_STATUS_SKIPPED),
        load.unwell / RATE,
        rejoin_seconds,
        percentiles(samples),
    )


def _status(sample: TimedAnswer, role: str) -> int | None:
    """How the stage of `role` went; None where there is no answer, or no such stage in it."""
    stages = () if sample.response is None else sample.response.stages
    return next((stage.status for stage in stages if stage.name == stage_of(role)), None)


def _sent_knowing(samples: Sequence[TimedAnswer], role: str) -> list[TimedAnswer]:
    """Those of `samples` that were sent when the gateway knew that `role` is lost.

    It knew when the first answer that skipped it had come back, or plenty that waited in vain, whatever overtook what
    on its way; two requests in flight may be decided in any order.
    """
    skips = _returns(samples, role, STAGE_STATUS_SKIPPED)
    waits = _returns(samples, role, STAGE_STATUS_TIMEOUT)
    known = [*skips[:1], *waits[PLENTY - 1 : PLENTY]]
    return [sample for sample in samples if known and sample.due > min(known)]


def _returns(samples: Sequence[TimedAnswer], role: str, status: int) -> list[float]:
    """When the answers came back in which the stage of `role` has that status."""
    return sorted(sample.due + sample.latency for sample in samples if _status(sample, role) == status)


def _degraded(samples: Sequence[TimedAnswer]) -> int:
    return sum(sample.response is not None and sample.response.degraded for sample in samples)


def started(
    bundle_root: Path,
    folder: Path,
    *,
    hang_seconds: float = HANG_SECONDS,
    gateway_settings: Mapping[str, str] | None = None,
) -> tuple[LocalCluster, str]:
    """A healthy cluster on free ports, and the address of its gateway."""
    store, ports = BundleStore(bundle_root.absolute()), Ports.free()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bundle").symlink_to(store.open(store.release().current).folder)
    settings = {"gateway": gateway_settings or {}}
    servers = programs(store.root, folder / "events", ports, settings={"log-level": "WARNING"}, role_settings=settings)
    cluster = LocalCluster(servers, folder, stop_seconds=60, hang_seconds=hang_seconds)
    cluster.start()
    cluster.wait_healthy(PATIENCE_SECONDS)
    wait_complete(ports.target("gateway"), PATIENCE_SECONDS)
    return cluster, ports.target("gateway")
