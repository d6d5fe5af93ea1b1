"""The servers on one machine, supervised by the process that starts them: `make serve`, replay, tests, benchmarks.

    with LocalCluster(programs(bundle_root, events_folder, ports), folder) as cluster:
        cluster.wait_healthy(60)

A server that dies is restarted, with back-off if it dies soon after its start; one that hangs is killed first. The
servers run in their own process groups: a terminal's Ctrl-C reaches only the owner of the cluster, whose `stop` drains
them, the gateway first. If the owner is killed, the servers notice and drain.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from offline.local.log_file import last_lines, log_file
from offline.local.ports import check_free
from offline.local.supervision import Program, SupervisedProgram
from offline.local.watchdog import HANG_SECONDS, watch
from recsys.errors import CannotStart, Unreachable
from recsys.server import healthcheck

logger = logging.getLogger(__name__)

TARGETS_FILE = "targets.json"
"""What Prometheus reads of a cluster: where the metrics of each process are."""
_POLL_SECONDS = 0.1
_LAST_LINES = 5
_MOMENT_SECONDS = 1.0
_KILLED_SECONDS = 5.0


class LocalCluster:
    """Supervised servers. Use it as a context manager, or call `start` and `stop`."""

    def __init__(
        self,
        servers: Sequence[Program],
        folder: Path,
        *,
        stop_seconds: float = 15,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        """Logs go to `folder`, one file per server. A server that has not drained after `stop_seconds` is killed.

        One that has answered health checks and then does not for `hang_seconds` is killed and restarted, unless it is
        busy (`offline.local.watchdog`).
        """
        self.folder = folder.absolute()
        self._stop_seconds = stop_seconds
        self._hang_seconds = hang_seconds
        self._news: SimpleQueue[str | None] = SimpleQueue()
        self._ended = threading.Event()
        self._started = False
        self._servers = [
            SupervisedProgram(server, log_file(self.folder, server.name), self._news.put) for server in servers
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the servers, once; does not wait for them.

        Raises:
            CannotStart: a port is in use, perhaps by a cluster that is already running.
        """
        for server in self._programs():
            for target in filter(None, (server.target, server.metrics_target, server.shared_target)):
                check_free(server.name, target)
        self._write_targets()
        self._started = True
        threading.Thread(target=self._tell, name="tell", daemon=True).start()
        for supervised in self._servers:
            supervised.start()
            threading.Thread(target=self._watch, args=(supervised,), daemon=True).start()

    def _watch(self, supervised: SupervisedProgram) -> None:
        try:
            watch(supervised, self._hang_seconds, self._ended, self._news.put)
        except Exception as error:
            logger.exception("the watchdog of %s ends", supervised.program.name)
            supervised.failure = f"{type(error).__name__}: {error}"

    def _programs(self) -> list[Program]:
        return [server.program for server in self._servers]

    def _tell(self) -> None:
        """Logs what happens, in a thread of its own: a terminal that takes nothing must not delay a restart."""
        while (text := self._news.get()) is not None:
            logger.warning("%s", text)

    def _write_targets(self) -> None:
        """Tells Prometheus where to scrape (`file_sd_configs`); the job is the role."""
        targets = [
            {"targets": [server.metrics_target], "labels": {"job": server.role}}
            for server in self._programs()
            if server.metrics_target
        ]
        file = self.folder / TARGETS_FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(targets, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            self._news.put(f"{file}: {error.strerror}; Prometheus will not find the servers")

    def wait_healthy(self, timeout_seconds: float) -> None:
        """Returns when every server reports SERVING.

        Raises:
            CannotStart: a server cannot start as configured, or supervision failed.
            Unreachable: some are not healthy in time; names them, with the end of their logs.
        """
        deadline = time.monotonic() + timeout_seconds
        missing = self._programs()
        while missing:
            missing = [server for server in missing if healthcheck.state(server.target) != "SERVING"]
            self._raise_if_hopeless()
            if missing and time.monotonic() > deadline:
                logs = {server.name: log_file(self.folder, server.name) for server in missing}
                ends = "\n".join(f"{name}: {last_lines(path, _LAST_LINES)}" for name, path in logs.items())
                raise Unreachable(f"not healthy after {timeout_seconds:g} s, logs are in {self.folder}\n{ends}")
            time.sleep(_POLL_SECONDS if missing else 0)

    def check(self) -> None:
        """Raises Unreachable if a server is not supervised any more, whatever the reason."""
        failures = [f"{server.program.name} ({server.failure})" for server in self._servers if server.failure]
        if failures:
            raise Unreachable(f"supervision failed for {', '.join(failures)}; stop and start again")

    def pids(self) -> dict[str, int]:
        """Process id by server; 0 if it is not running at the moment."""
        return {server.program.name: server.pid for server in self._servers}

    def states(self) -> dict[str, str]:
        """State by server, see `SupervisedProgram.state`."""
        return {server.program.name: server.state for server in self._servers}

    def stop(self) -> dict[str, int]:
        """Drains everything, the gateway first; returns each server's exit code. Nothing is left running.

        Empty if the cluster is not running.
        """
        if not self._started:
            return {}
        self._started = False
        self._ended.set()
        gateways = [server for server in self._servers if server.program.role == "gateway"]
        self._drain(gateways)
        self._drain([server for server in self._servers if server not in gateways])
        self._news.put(None)
        return {server.program.name: server.code for server in self._servers}

    def _drain(self, servers: Sequence[SupervisedProgram]) -> None:
        """Ends the servers side by side, and says which of them take longer than a moment."""
        for server in servers:
            server.terminate()
        deadline = time.monotonic() + self._stop_seconds
        self._join(servers, min(deadline, time.monotonic() + _MOMENT_SECONDS))
        for server in servers:
            if server.pid:
                self._news.put(f"waiting for {server.program.name} to drain, up to {self._stop_seconds:g} s")
        self._join(servers, deadline)
        for server in servers:
            if server.kill(server.pid):
                self._news.put(f"{server.program.name} did not drain in {self._stop_seconds:g} s: killed")
            server.join(_KILLED_SECONDS)

    def _join(self, servers: Sequence[SupervisedProgram], deadline: float) -> None:
        for server in servers:
            server.join(deadline - time.monotonic())

    def _raise_if_hopeless(self) -> None:
        """Raises CannotStart if waiting is pointless."""
        self.check()
        for server in self._servers:
            last = last_lines(server.log, 1)
            if server.state == "waiting" and last.startswith(f"{server.program.arguments[1]}: "):
                raise CannotStart(f"{server.program.name} cannot start: {last}")
