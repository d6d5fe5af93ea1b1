"""The five servers as real processes on a small real bundle, and what tests do to them while they run."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from offline.evaluation.open_loop import TimedAnswer, send_at_rate
from offline.local.cluster import LocalCluster
from offline.local.log_file import log_file
from offline.local.ports import ONE_EACH, Ports, WorkerCounts
from offline.local.programs import programs
from offline.local.supervision import Program
from offline.publish.publish import BundleFacts, publish
from recsys.bundle import BundleStore, Release
from recsys.bundle.manifest import MANIFEST_FILE
from recsys.server import healthcheck
from recsys.v1 import types_pb2
from recsys.v1.recommend_pb2 import RecommendRequest, RecommendResponse, StatusRequest, StatusResponse
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub
from tests.published import USERS
from tests.waiting import PATIENCE_SECONDS, eventually

SETTINGS = {"log-level": "WARNING", "poll-seconds": "0.1"}
GATEWAY_SETTINGS = {
    "probe-seconds": "0.1",
    "reprobe-seconds": "0.1",
    "probe-timeout-seconds": "2",
    "rollout-timeout-seconds": "60",
    "budget-seconds": "10",
}
"""Limits are long: where a limit is not what a test is about, a busy machine must not reach it."""

CALL_SECONDS = 30.0
"""A caller's deadline, for the same reason."""

RATE = 40
"""Requests per second under load."""

CHANGE_AT = 1.0
"""Seconds of load before something changes, and after the change has settled."""

T = TypeVar("T")
_CONSTANTS = itertools.count(100.0)
ROLES = ("popularity", "itemcf", "vector", "rank", "gateway")


@dataclass(frozen=True)
class System:
    """A cluster, what it serves, and a client of its gateway."""

    cluster: LocalCluster
    ports: Ports
    store: BundleStore
    channel: grpc.Channel

    @property
    def gateway(self) -> Any:
        """A stub of the public API."""
        return RecommendationServiceStub(self.channel)

    @property
    def target(self) -> str:
        """HOST:PORT of the gateway."""
        return self.ports.target("gateway")

    def ask(self, **fields: Any) -> RecommendResponse:
        """One answer of `Recommend`, with its stages."""
        response: RecommendResponse = self.gateway.Recommend(
            RecommendRequest(debug=True, **fields), timeout=CALL_SECONDS
        )
        return response

    def status(self) -> StatusResponse:
        """What the gateway says of itself and of the others."""
        response: StatusResponse = self.gateway.Status(StatusRequest(), timeout=CALL_SECONDS)
        return response

    def statuses(self) -> dict[str, types_pb2.ServingStatus]:
        """What each process says of itself, as the gateway last heard it."""
        response = self.status()
        return {"gateway": response.gateway} | {backend.name: backend.status for backend in response.backends}

    def all_active(self, version: str) -> bool:
        """Whether every process uses `version` for new work."""
        return {status.active_version for status in self.statuses().values()} == {version}

    def refusals(self, version: str) -> dict[str, str]:
        """Why `version` is refused, by the processes that refuse it."""
        return {
            name: refused.reason
            for name, status in self.statuses().items()
            for refused in status.refused_versions
            if refused.bundle_version == version
        }

    def settle(self) -> None:
        """Waits until all servers are healthy and the gateway, which may have started first, has found the others."""
        self.cluster.wait_healthy(PATIENCE_SECONDS)
        eventually(
            lambda: all(backend.reachable and not backend.cause for backend in self.status().backends),
            "the gateway reaches every other process",
        )

    def log(self, role: str) -> str:
        """What a server has written so far."""
        return log_file(self.cluster.folder, role).read_text(encoding="utf-8", errors="replace")

    def health(self, role: str, service: str = "") -> str:
        """What a process says of its health."""
        return healthcheck.state(self.ports.target(role), service=service, timeout_seconds=CALL_SECONDS)


@contextmanager
def system(
    root: Path,
    folder: Path,
    *,
    gateway_settings: Mapping[str, str] | None = None,
    role_settings: Mapping[str, Mapping[str, str]] | None = None,
    healthy: bool = True,
    workers: WorkerCounts = ONE_EACH,
    launch: Callable[[Program], Program] = lambda program: program,
) -> Iterator[System]:
    """The five servers on the bundles below `root`; all must exit with 0 in the end, and none with a traceback.

    `healthy`: wait until all serve. `workers`: roles with several processes. `launch` changes how a server is started.
    """
    ports = Ports.free(workers)
    servers = programs(
        root,
        folder / "events",
        ports,
        workers=workers,
        settings=SETTINGS,
        role_settings={**(role_settings or {}), "gateway": {**GATEWAY_SETTINGS, **(gateway_settings or {})}},
    )
    # Nothing hangs here but what a test has stopped and will let continue; a slow end is not a failed one.
    cluster = LocalCluster(
        [launch(server) for server in servers], folder / "logs", stop_seconds=60, hang_seconds=PATIENCE_SECONDS
    )
    with grpc.insecure_channel(ports.target("gateway"), options=[("grpc.max_reconnect_backoff_ms", 200)]) as channel:
        running = System(cluster, ports, BundleStore(root), channel)
        cluster.start()
        try:
            if healthy:
                running.settle()
            yield running
        finally:
            codes = cluster.stop()
        names = [server.name for server in servers]
        assert codes == dict.fromkeys(names, 0), codes
        assert not [name for name in names if "Traceback" in running.log(name)]


class _Meddling(BundleStore):
    """A store in which something happens to each bundle just before it is released."""

    def __init__(self, root: Path, meddle: Callable[[Path], None]) -> None:
        super().__init__(root)
        self._meddle = meddle

    def write_release(self, release: Release) -> None:
        """See `BundleStore`."""
        self._meddle(self.root / release.current)
        super().write_release(release)


def publish_again(
    store: BundleStore,
    *,
    meddle: Callable[[Path], None] = lambda folder: None,
    events_watermarks: Mapping[str, int] | None = None,
    **policy: Any,
) -> str:
    """Publishes the current bundle's files under another policy, as another version; returns it.

    No two policies are alike, so that content never published before is published. `meddle(folder)` does harm to the
    bundle before any server looks at it. `events_watermarks` replaces those of the bundle.
    """
    policy = {"blend_constant": next(_CONSTANTS)} | policy
    current = store.open(store.release().current)
    manifest = current.manifest
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part")
        shutil.copytree(current.folder, part, ignore=shutil.ignore_patterns(MANIFEST_FILE))
        facts = BundleFacts(
            purpose=manifest.purpose,
            dataset=manifest.dataset,
            cutoff=manifest.cutoff,
            events_watermarks=manifest.events_watermarks if events_watermarks is None else events_watermarks,
            policy=manifest.policy.model_copy(update=policy),
            feature_names=manifest.feature_names,
            index=manifest.index,
            metrics=manifest.metrics,
        )
        return publish(_Meddling(store.root, meddle), [part], facts, golden=lambda staging: None)


def flip_bit(path: Path) -> None:
    """Changes one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


async def under_load(
    running: System, change: Callable[[], T], settled: Callable[[T], bool]
) -> tuple[list[TimedAnswer], T]:
    """Samples of a steady load during a change, and what `change` returned.

    `change` is called `CHANGE_AT` seconds after the first request. The load lasts until `settled` holds for what it
    returned, and `CHANGE_AT` seconds longer: however long the change takes on this machine, its end is seen.
    """
    due, done = asyncio.Event(), asyncio.Event()

    def requests() -> Iterator[RecommendRequest]:
        numbers = itertools.count()
        for number in numbers:
            if number > RATE * CHANGE_AT:
                due.set()
            if done.is_set():
                break
            yield request_of(number)
        for _, number in zip(range(int(RATE * CHANGE_AT)), numbers, strict=False):
            yield request_of(number)

    async def changing() -> T:
        try:
            await due.wait()
            result = await asyncio.to_thread(change)
            await asyncio.to_thread(eventually, lambda: settled(result), "the change is served")
            return result
        finally:
            done.set()

    load = send_at_rate(
        running.target, requests(), rate=RATE, deadline_seconds=CALL_SECONDS, ready_seconds=CALL_SECONDS
    )
    samples, result = await asyncio.gather(load, changing())
    return samples, result


def request_of(number: int) -> RecommendRequest:
    """What is asked under load: every user of the checkerboard in turn."""
    return RecommendRequest(user_id=number % USERS, count=10, debug=True)


def stage(response: RecommendResponse, name: str) -> types_pb2.Stage:
    """The stage of that name; there is exactly one."""
    (found,) = [entry for entry in response.stages if entry.name == name]
    return found


def details(error: grpc.RpcError) -> str:
    """What a failed call says."""
    return error.details() or ""


def item_ids(response: Any) -> list[int]:
    """The items of an answer, in order."""
    return [item.item_id for item in response.items]
