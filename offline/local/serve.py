"""Serving on this machine: one supervised process per role, until Ctrl-C or for as long as a replay takes."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc

from offline.local.cluster import LocalCluster
from offline.local.ports import Ports, Scale
from offline.local.programs import programs
from offline.local.showcase import demonstrate
from offline.local.supervision import Program
from recsys.bundle import BundleStore
from recsys.errors import Unreachable
from recsys.v1.recommend_pb2 import StatusRequest
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub

log = logging.getLogger(__name__)

HEALTHY_SECONDS = 180.0
"""When to give up waiting. On a small and busy machine the servers take a minute to load their libraries."""

_POLL_SECONDS = 0.1
_CHECK_SECONDS = 1.0


def serve_until_interrupted(
    store: BundleStore, *, events_folder: Path, logs: Path, port_offset: int = 0, scale: Scale | None = None
) -> None:
    """Starts the servers, shows some of their answers, and serves until SIGINT or SIGTERM.

    They listen on the documented ports, each `port_offset` higher.

    Raises:
        CannotStart: a port is in use.
        Unreachable: a server did not become healthy, is not supervised any more, or did not exit with 0.
    """
    scale = scale or Scale()
    ports = Ports.default(port_offset, scale.workers)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))  # the program before us blocked them
    servers = programs(
        store.root.absolute(),
        events_folder.absolute(),
        ports,
        channels=channels_of(store),
        workers=scale.workers,
        role_settings={role: {"compute-threads": str(n)} for role, n in scale.threads.items()},
    )
    cluster = LocalCluster(servers, logs)
    started = time.monotonic()
    cluster.start()
    try:
        _wait_ready(cluster, servers)
        log.info("all %d servers are healthy after %.1f s", len(servers), time.monotonic() - started)
        for line in demonstrate(ports.target("gateway"), store.open(store.release().current).folder):
            _say(line)
        _say(_addresses(servers, store, logs))
        while not stopping.wait(_CHECK_SECONDS):
            cluster.check()
        _say("stopping: no new calls, calls in flight finish")
    finally:
        codes = cluster.stop()
    bad = {name: code for name, code in codes.items() if code != 0}
    if bad:
        raise Unreachable(f"servers that did not exit with 0: {bad}; their logs are in {logs}")
    _say("all servers exited 0")


@contextmanager
def served(store: BundleStore, *, folder: Path, gateway_settings: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serves the store on free ports with separate event files; yields HOST:PORT of the gateway.

    `gateway_settings`: flags of the gateway without dashes, and values.
    """
    ports = Ports.free()
    quiet = {"log-level": "WARNING"}
    events = folder.absolute() / "events"
    servers = programs(
        store.root.absolute(),
        events,
        ports,
        channels=channels_of(store),
        settings=quiet,
        role_settings={"gateway": gateway_settings or {}},
    )
    with LocalCluster(servers, folder / "logs") as cluster:
        _wait_ready(cluster, servers)
        yield ports.target("gateway")


def _wait_ready(cluster: LocalCluster, servers: Sequence[Program]) -> None:
    """Returns when every server is healthy and every gateway uses the others."""
    cluster.wait_healthy(HEALTHY_SECONDS)
    for server in servers:
        if server.role == "gateway":
            wait_complete(server.target, HEALTHY_SECONDS)


def channels_of(store: BundleStore) -> tuple[str, ...]:
    """The recall channels that the released bundle uses; new channels of a later bundle need a restart."""
    policy = store.open(store.release().current).manifest.policy
    return tuple(channel.name for channel in policy.channels)


def wait_complete(target: str, timeout_seconds: float) -> None:
    """Returns when the gateway at `target` uses every other process.

    A gateway is healthy as soon as it can answer alone; it discovers the other processes, which start in parallel, by
    probing. Raises Unreachable, which names the missing ones and the causes.
    """
    deadline = time.monotonic() + timeout_seconds
    with grpc.insecure_channel(target) as channel:
        stub = RecommendationServiceStub(channel)
        while True:
            status = stub.Status(StatusRequest(), timeout=timeout_seconds, wait_for_ready=True)
            missing = [
                f"{backend.name} ({backend.cause or 'not ready'})"
                for backend in status.backends
                if backend.cause or status.gateway.active_version not in backend.status.ready_versions
            ]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise Unreachable(f"{target} does not use {', '.join(missing)} after {timeout_seconds:g} s")
            time.sleep(_POLL_SECONDS)


def _addresses(servers: Sequence[Program], store: BundleStore, logs: Path) -> str:
    width = max(len(server.name) for server in servers)
    lines = [
        f"  {server.name:<{width}} grpc {server.target}   metrics http://{server.metrics_target}/metrics"
        for server in servers
    ]
    shared = {server.shared_target for server in servers if server.shared_target}
    text = "\n".join([*lines, *(f"  clients connect to {target}" for target in shared)])
    return f"\nbundle {store.release().current} from {store.root}\n{text}\n  logs in {logs}\n\nserving; Ctrl-C stops"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
