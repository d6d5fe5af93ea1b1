"""A real system to do harm to: the servers of a published bundle below a front, which is a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import psutil

from gateway.bundle.state import StoredHistories
from gateway.pipeline import fallback
from offline.local.ports import Ports
from offline.local.serve import channels_of
from recsys.bundle import BundleStore
from recsys.config import ANSWERS_FILE, EVENTS_FILE
from recsys.server import healthcheck
from recsys.v1.recommend_pb2 import RecommendRequest
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
HANG_SECONDS = 8.0
HEALTHY_SECONDS = 90.0
SETTLED = 3
"""Complete answers in a row after which a system counts as whole."""


@dataclass(slots=True)
class Setup:
    """How a system is started. A fault may change it."""

    bundle_root: Path
    folder: Path
    settings: dict[str, str] = field(default_factory=lambda: {"log-level": "INFO", "log-sample": "1"})
    gateway_settings: dict[str, str] = field(default_factory=dict)
    launch: dict[str, list[str]] = field(default_factory=dict)
    """Words in front of those of a server, by role."""
    environment: dict[str, str] = field(default_factory=dict)
    hang_seconds: float = HANG_SECONDS
    undo: list[list[str]] = field(default_factory=list)
    """Commands to be run, last first, when the system has ended: what was mounted is unmounted."""

    @property
    def events(self) -> Path:
        """Folder of the files that the gateway writes."""
        return self.folder / "events"

    @property
    def logs(self) -> Path:
        """Folder of the servers' logs."""
        return self.folder / "logs"


class System:
    """A running system; see `running`."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.store = BundleStore(setup.bundle_root)
        self.bundle = self.store.open(self.store.release().current).folder
        self.channels = channels_of(self.store)
        self.roles = ("gateway", *self.channels, "rank")
        self.ports = Ports.free()
        self.front: psutil.Popen | None = None
        self.counted_from = 0.0
        """By `time.monotonic`: what was acknowledged earlier may be lost, because a fault restored an older file."""
        self.users = StoredHistories.open(self.bundle).user_ids.tolist()
        self.items = np.load(self.bundle / fallback.FILE).tolist()

    @property
    def target(self) -> str:
        """HOST:PORT of the gateway."""
        return self.ports.target("gateway")

    @property
    def events_file(self) -> Path:
        """The gateway's recorded events."""
        return self.setup.events / EVENTS_FILE

    @property
    def answers_file(self) -> Path:
        """The gateway's log of answers."""
        return self.setup.events / ANSWERS_FILE

    def start(self) -> None:
        """Starts the front, and with it the servers; returns when they answer in full."""
        setup, plan = self.setup, self.setup.folder / "plan.json"
        for folder in (setup.events, setup.logs):
            folder.mkdir(parents=True, exist_ok=True)
        plan.write_text(
            json.dumps(
                {
                    "bundle_root": str(setup.bundle_root.absolute()),
                    "events": str(setup.events),
                    "logs": str(setup.logs),
                    "grpc": dict(self.ports.grpc),
                    "metrics": dict(self.ports.metrics),
                    "settings": setup.settings,
                    "gateway_settings": setup.gateway_settings,
                    "launch": setup.launch,
                    "hang_seconds": setup.hang_seconds,
                }
            ),
            encoding="utf-8",
        )
        with (setup.folder / "front.out").open("ab") as output:
            self.front = psutil.Popen(
                [sys.executable, "-m", "tests.faults.front", str(plan)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **setup.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.wait_whole(HEALTHY_SECONDS)

    def servers(self) -> dict[str, psutil.Process]:
        """The running servers by role, whoever their parent is."""
        ports = {str(port): role for role, port in self.ports.grpc.items() if role in self.roles}
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                if "--port" in words and (role := ports.get(words[words.index("--port") + 1])):
                    found[role] = process
        return found

    def supervisors(self) -> list[psutil.Process]:
        """The front and what it has started, but for the servers and what those have started."""
        if self.front is None or not self.front.is_running():
            return []
        servers = set(self.servers().values())
        below = {child for server in servers for child in server.children(recursive=True)}
        return [one for one in (self.front, *self.front.children(recursive=True)) if one not in servers | below]

    def is_whole(self) -> bool:
        """Whether every server is healthy and some answers in a row are complete."""
        if any(healthcheck.state(self.ports.target(role), timeout_seconds=1) != "SERVING" for role in self.roles):
            return False
        with self.stub() as stub:
            try:
                return not any(stub.Recommend(self.request(k), timeout=1).degraded for k in range(SETTLED))
            except grpc.RpcError:
                return False

    @contextmanager
    def stub(self) -> Iterator[RecommendationServiceStub]:
        """A client of the gateway."""
        with grpc.insecure_channel(self.target) as channel:
            yield RecommendationServiceStub(channel)

    def wait_whole(self, seconds: float) -> None:
        """Raises AssertionError with the ends of the logs where that does not come in time."""
        eventually(self.is_whole, f"the system is whole; see {self.setup.folder}", seconds=seconds)

    def request(self, number: int) -> RecommendRequest:
        """The users of the bundle in turn."""
        return RecommendRequest(user_id=self.users[number * 37 % len(self.users)], count=10)

    def stop(self) -> None:
        """Drains everything; what has not ended after a minute is killed."""
        left = [*self.servers().values(), *self.supervisors()]
        for process in left:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        if self.front is not None and self.front.is_running():
            self.front.terminate()
        _, alive = psutil.wait_procs(left, timeout=60)
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        if self.front is not None:
            self.front.wait(10)

    def restart(self) -> None:
        """Starts a front again after the old one was killed and the servers have drained."""
        if self.front is not None:
            self.front.wait()
        psutil.wait_procs(list(self.servers().values()), timeout=60)
        self.start()


@contextmanager
def running(setup: Setup) -> Iterator[System]:
    """A whole system; in the end nothing of it is left, mounts included."""
    system = System(setup)
    try:
        system.start()
        yield system
    finally:
        system.stop()
        for command in reversed(setup.undo):
            subprocess.run(command, check=False, capture_output=True)


def wait_gone(process: psutil.Process, seconds: float = 30.0) -> float:
    """Waits until a process is gone; returns the seconds that took."""
    started = time.monotonic()
    with suppress(psutil.NoSuchProcess):
        process.wait(seconds)
    return time.monotonic() - started
