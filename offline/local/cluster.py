"""The servers on one machine, under a process supervisor: `make serve`, replay, fault tests and benchmarks.

    with LocalCluster(programs(bundle_root, events_folder, ports), folder) as cluster:
        cluster.wait_healthy(60)

A server that dies is restarted, with back-off if it dies soon after its start; one that hangs is killed first. The
servers run in their own process groups: a terminal's Ctrl-C reaches only the owner of the cluster, whose `stop` drains
them, the gateway first. If the owner or the supervisor is killed, the servers notice and drain.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport  # type: ignore[import-untyped]

from offline.local.supervision import Program, configuration, log_file
from offline.local.watchdog import HANG_SECONDS
from recsys.channels import DEFAULT_CHANNELS
from recsys.config import ANSWERS_FILE, EVENTS_FILE, METRICS_PORTS, PORTS, WORKER_STEP
from recsys.errors import CannotStart, Unreachable
from recsys.server import healthcheck

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
TARGETS_FILE = "targets.json"
"""What Prometheus reads of a cluster: where the metrics of each process are."""
_POLL_SECONDS = 0.1
_LAST_LINES = 5
_FREE_PORTS = range(20_000, 32_000)
_BLOCK = 250
_BLOCKS = len(_FREE_PORTS) // _BLOCK


WorkerCounts = Mapping[str, int]
"""How many processes each role has, where it is not one."""

ONE_EACH: WorkerCounts = {}


@dataclass(frozen=True, slots=True)
class Scale:
    """How many processes a role has, and compute threads each of them, where it is not one."""

    workers: WorkerCounts = field(default_factory=dict)
    threads: Mapping[str, int] = field(default_factory=dict)


def worker_names(role: str, workers: WorkerCounts) -> list[str]:
    """Names of the processes of a role: `rank`, or `rank-1`, `rank-2`, … where there are several."""
    n = workers.get(role, 1)
    return [role] if n == 1 else [f"{role}-{k}" for k in range(1, n + 1)]


@dataclass(frozen=True, slots=True)
class Ports:
    """gRPC and metrics port by name of the process, and by role."""

    grpc: Mapping[str, int]
    metrics: Mapping[str, int]

    @classmethod
    def default(cls, offset: int = 0, workers: WorkerCounts = ONE_EACH) -> Self:
        """The documented ports, each `offset` higher."""
        steps = [
            (role, name, k * WORKER_STEP)
            for role in PORTS
            for k, name in enumerate(dict.fromkeys((role, *worker_names(role, workers))))
        ]
        return cls(
            {name: PORTS[role] + offset + step for role, name, step in steps},
            {name: METRICS_PORTS[role] + offset + step for role, name, step in steps},
        )

    @classmethod
    def free(cls, workers: WorkerCounts = ONE_EACH) -> Self:
        """Ports that are currently free, for tests."""
        names = list(cls.default(0, workers).grpc)
        found = free_ports(2 * len(names))
        return cls(dict(zip(names, found, strict=False)), dict(zip(names, found[len(names) :], strict=True)))

    def target(self, name: str) -> str:
        """HOST:PORT of a server; of a role with several, `gateway` is where clients connect."""
        return f"{HOST}:{self.grpc[name]}"


def free_ports(n: int) -> list[int]:
    """`n` different ports that are currently free, none of which it returned recently.

    They are below the ephemeral range, from which a client could take one before its server does. Processes that search
    at the same time begin at different ports for the same reason. Raises CannotStart if there are not enough.
    """
    found: list[int] = []
    for port in itertools.islice(_candidates, _BLOCK):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            found.append(port)
        if len(found) == n:
            return found
    raise CannotStart(f"{len(found)} of {_BLOCK} ports are free, {n} are needed; stop what listens there")


def _ports_of_this_process() -> Iterator[int]:
    """The ports of a range that this process shares with few others, repeated endlessly."""
    first = _FREE_PORTS.start + os.getpid() % _BLOCKS * _BLOCK
    return itertools.cycle(range(first, first + _BLOCK))


_candidates = _ports_of_this_process()


def programs(
    bundle_root: Path,
    events_folder: Path,
    ports: Ports,
    *,
    channels: Sequence[str] = DEFAULT_CHANNELS,
    workers: WorkerCounts = ONE_EACH,
    settings: Mapping[str, str] | None = None,
    role_settings: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Program]:
    """The gateway, one server per recall channel of `channels`, and the rank server; several where `workers` says so.

    `settings` apply to all, `role_settings` to one role: flags without dashes, and values.
    """

    def targets(role: str) -> str:
        return "+".join(ports.target(name) for name in worker_names(role, workers))

    modules = {
        "gateway": (
            "gateway",
            *("--recall", ",".join(f"{name}={targets(name)}" for name in channels)),
            *("--rank", targets("rank")),
            *("--events-file", str(events_folder / EVENTS_FILE)),
            *("--answers-file", str(events_folder / ANSWERS_FILE)),
        ),
        **{name: ("recall_server", "--channel", name) for name in channels},
        "rank": ("rank_server",),
    }
    return [
        Program(
            name,
            (
                "-m",
                *arguments,
                *("--bundle-root", str(bundle_root)),
                *("--port", str(ports.grpc[name])),
                *("--metrics-port", str(ports.metrics[name])),
                "--exit-with-parent",
                *(("--shared-port", str(ports.grpc[role])) if role == "gateway" and name != role else ()),
                *_flags({**(settings or {}), **(role_settings or {}).get(role, {})}),
            ),
            ports.target(name),
            f"{HOST}:{ports.metrics[name]}",
            ports.target(role) if role == "gateway" and name != role else "",
            role,
        )
        for role, arguments in modules.items()
        for name in worker_names(role, workers)
    ]


def _check_free(name: str, target: str) -> None:
    host, _, port = target.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT is fine
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            raise CannotStart(
                f"{name}: port {target}: {error.strerror}; stop what listens there, or use other ports with "
                "--port-offset"
            ) from None


def _flags(settings: Mapping[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


class LocalCluster:
    """Supervised servers. Use it as a context manager, or call `start` and `stop`."""

    def __init__(
        self,
        servers: Sequence[Program],
        folder: Path,
        *,
        stop_seconds: int = 15,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        """Logs go to `folder`, one file per server. A server that has not drained after `stop_seconds` is killed.

        One that has answered health checks and then does not for `hang_seconds` is killed and restarted.
        """
        self.folder = folder.absolute()
        self._servers = list(servers)
        self._stop_seconds = stop_seconds
        self._hang_seconds = hang_seconds
        self._runtime: Path | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the supervisor, which starts the servers; does not wait for them.

        Raises:
            CannotStart: a port is in use, perhaps by a cluster that is already running.
        """
        for server in self._servers:
            for target in filter(None, (server.target, server.metrics_target, server.shared_target)):
                _check_free(server.name, target)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_targets()
        self._runtime = Path(tempfile.mkdtemp(prefix="recsys-"))  # paths of sockets must be short
        file = self._runtime / "supervisord.conf"
        text = configuration(
            self._servers,
            self.folder,
            self._socket,
            stop_seconds=self._stop_seconds,
            hang_seconds=self._hang_seconds,
        )
        file.write_text(text, encoding="utf-8")
        with (self.folder / "supervisor.out").open("wb") as output:
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "offline.local.supervision", str(file)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _write_targets(self) -> None:
        """Tells Prometheus where to scrape (`file_sd_configs`); the job is the role."""
        targets = [
            {"targets": [server.metrics_target], "labels": {"job": server.role}}
            for server in self._servers
            if server.metrics_target
        ]
        (self.folder / TARGETS_FILE).write_text(json.dumps(targets, indent=1) + "\n", encoding="utf-8")

    def wait_healthy(self, timeout_seconds: float) -> None:
        """Returns when every server reports SERVING.

        Raises:
            CannotStart: a server cannot start as configured.
            Unreachable: some are not healthy in time; names them, with the end of their logs.
        """
        deadline = time.monotonic() + timeout_seconds
        missing = list(self._servers)
        while missing:
            missing = [server for server in missing if healthcheck.state(server.target) != "SERVING"]
            self._raise_if_hopeless()
            if missing and time.monotonic() > deadline:
                ends = "\n".join(f"{server.name}: {self._end_of_log(server.name)}" for server in missing)
                raise Unreachable(f"not healthy after {timeout_seconds:g} s, logs are in {self.folder}\n{ends}")
            time.sleep(_POLL_SECONDS if missing else 0)

    def pids(self) -> dict[str, int]:
        """Process id by server; 0 if it is not running at the moment."""
        return {info["name"]: int(info["pid"]) for info in self._infos()}

    def states(self) -> dict[str, str]:
        """supervisord's state by server: STARTING, RUNNING, BACKOFF, EXITED, STOPPED, …"""
        return {info["name"]: str(info["statename"]) for info in self._infos()}

    def stop(self) -> dict[str, int]:
        """Drains everything, the gateway first; returns each server's exit code. Nothing is left running.

        Empty if the cluster is not running, or its supervisor was killed: then the servers drain by themselves.
        """
        if self._supervisor is None:
            return {}
        codes: dict[str, int] = {}
        try:
            if self._supervisor.poll() is None:
                codes = self._stop_servers()
        except (OSError, Fault) as error:
            logger.warning("the supervisor did not stop the servers (%s); they will stop when it exits", error)
        finally:
            self._end_supervisor(self._supervisor)
        return codes

    @property
    def _socket(self) -> Path:
        return cast("Path", self._runtime) / "supervisor.sock"

    def _stop_servers(self) -> dict[str, int]:
        states = self.states()
        gateways = [server.name for server in self._servers if server.role == "gateway"]
        with self._rpc() as rpc:
            for name in gateways:
                if states.get(name) in ("STARTING", "RUNNING"):
                    rpc.supervisor.stopProcess(name, False)  # noqa: FBT003 - XML-RPC has no names: do not wait
            while "STOPPING" in {state for name, state in self.states().items() if name in gateways}:
                time.sleep(_POLL_SECONDS)
            rpc.supervisor.stopAllProcesses()
        return {info["name"]: int(info["exitstatus"]) for info in self._infos()}

    def _end_supervisor(self, supervisor: subprocess.Popen[bytes]) -> None:
        if supervisor.stdin is not None:
            supervisor.stdin.close()
        supervisor.terminate()
        try:
            supervisor.wait(len(self._servers) * self._stop_seconds)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        self._supervisor = None
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)

    def _rpc(self) -> Any:
        return ServerProxy(f"http://{HOST}", transport=SupervisorTransport(None, None, f"unix://{self._socket}"))

    def _infos(self) -> list[dict[str, Any]]:
        """What supervisord reports for each server; empty while it starts."""
        try:
            with self._rpc() as rpc:
                return cast("list[dict[str, Any]]", rpc.supervisor.getAllProcessInfo())
        except (FileNotFoundError, ConnectionRefusedError):
            return []

    def _raise_if_hopeless(self) -> None:
        """Raises CannotStart if waiting is pointless.

        supervisord forgets the codes of early exits, but the last line of the log, `MODULE: why`, shows them as well.
        """
        if self._supervisor is None or self._supervisor.poll() is not None:
            output = (self.folder / "supervisor.out").read_text(encoding="utf-8", errors="replace")
            raise CannotStart(f"the supervisor does not run: {output.strip() or 'it was stopped'}")
        states = self.states()
        for server in self._servers:
            last = self._end_of_log(server.name, 1)
            if states.get(server.name) == "BACKOFF" and last.startswith(f"{server.arguments[1]}: "):
                raise CannotStart(f"{server.name} cannot start: {last}")

    def _end_of_log(self, name: str, lines: int = _LAST_LINES) -> str:
        path = log_file(self.folder, name)
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "no output yet"
