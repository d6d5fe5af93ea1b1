"""Kills supervised servers that hang, so that supervisord, which only notices a death, restarts them.

An extension of supervisord, loaded through its configuration ([rpcinterface:…] is how supervisord loads code that can
see its state). A stopped or deadlocked process keeps its port: connections succeed, and nothing is ever answered.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.states import ProcessStates, SupervisorStates  # type: ignore[import-untyped]

from recsys.server import healthcheck
from recsys.server.loading import is_loading

HANG_SECONDS = 8.0
"""A server that has answered health checks and then misses them for this long is killed. Longer than any pause of a
healthy one.

The time counts from the first missed health check, so a server lives up to `ROUND_SECONDS` longer than this after it
hangs.
"""

ROUND_SECONDS = 1.0
"""How often a server that answers is checked."""

MAX_MISSED_IDLE = 2
"""Missed health checks in a row after which an idle server is killed; `HANG_SECONDS` is divided among them.

Two, because one answer can be lost while the watchdog itself was suspended.
"""

MAX_MISSED = 8
"""The same for a server that used the CPU meanwhile: an overloaded one will answer, an endless loop will not."""

MAX_MISSED_LOADING = 75
"""The same for a server that has announced that it loads (`recsys.server.loading`): five minutes by default."""

BUSY_SHARE = 0.1
"""Share of a core above which a server counts as busy during a check; a stopped or deadlocked one uses none."""

_NO_ANSWER = ("DEADLINE_EXCEEDED", "UNAVAILABLE")
"""Every other status, NOT_SERVING or an error, comes from a server that is alive."""

_WATCHED = (ProcessStates.STARTING, ProcessStates.RUNNING)
"""A server that is being stopped is supervisord's business: it is killed after `stopwaitsecs`."""


@dataclass(slots=True)
class MissedHealthChecks:
    """Health checks in a row that one process has missed; 0 until it has answered for the first time."""

    pid: int = 0
    missed: int = 0
    missed_idle: int = 0
    """Those of them during which it did not use the CPU either."""
    missed_loading: int = 0
    """Those of them that it had announced."""
    _has_answered: bool = False

    def record(self, pid: int, *, answered: bool, busy: bool = False, loading: bool = False) -> None:
        """Adds one check of the process `pid`. A new process may take as long as it needs to start."""
        if pid != self.pid:
            self.pid, self._has_answered = pid, False
        self._has_answered |= answered
        if answered or not self._has_answered:
            self.missed = self.missed_idle = self.missed_loading = 0
            return
        self.missed += 1
        self.missed_loading += loading
        self.missed_idle += not busy and not loading

    @property
    def too_many(self) -> bool:
        """Whether the process is to be killed."""
        return (
            self.missed_idle >= MAX_MISSED_IDLE
            or self.missed - self.missed_loading >= MAX_MISSED
            or self.missed_loading >= MAX_MISSED_LOADING
        )


def section(targets: Mapping[str, str], hang_seconds: float) -> str:
    """The part of supervisord's configuration that loads the watchdog. `targets`: HOST:PORT by program."""
    pairs = ",".join(f"{name}={target}" for name, target in targets.items())
    return f"""
[rpcinterface:watchdog]
supervisor.rpcinterface_factory = offline.local.watchdog:watch
targets = {pairs}
hang_seconds = {hang_seconds!r}
"""


def watch(supervisord: Any, targets: str, hang_seconds: str) -> object:
    """Watches each program from a thread of its own for as long as `supervisord` runs. Called by supervisord.

    Checks are counted, not time: while the machine or the supervisor was suspended, nothing was checked.
    """
    allowed = float(hang_seconds) / MAX_MISSED_IDLE
    for pair in targets.split(","):
        name, _, target = pair.partition("=")
        threading.Thread(target=_watch, args=(supervisord, name, target, allowed), daemon=True).start()
    return object()  # supervisord publishes its methods over XML-RPC: there are none


def _watch(supervisord: Any, name: str, target: str, allowed: float) -> None:
    checks = MissedHealthChecks()
    while supervisord.options.mood >= SupervisorStates.RUNNING:
        began = time.monotonic()
        process = supervisord.process_groups[name].processes[name]
        pid = process.pid
        if pid and process.state in _WATCHED:
            used, loading = _cpu_seconds(pid), is_loading(pid)
            answered = not healthcheck.state(target, timeout_seconds=allowed).startswith(_NO_ANSWER)
            if not answered:  # a refused connection returns early: wait for the rest of the time
                time.sleep(max(0.0, began + allowed - time.monotonic()))
            busy = _cpu_seconds(pid) - used >= BUSY_SHARE * allowed
            checks.record(pid, answered=answered, busy=busy, loading=loading or is_loading(pid))
            if checks.too_many and process.pid == pid and process.state in _WATCHED:
                _kill(supervisord, name, pid, checks.missed * allowed)
                checks = MissedHealthChecks()  # it may not have been reaped by the next round: one kill is enough
        time.sleep(max(0.0, began + ROUND_SECONDS - time.monotonic()))


def _cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process; 0 if the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kill(supervisord: Any, name: str, pid: int, seconds: float) -> None:
    """Kills the process unless it is gone; if its pid belongs to another process by now, that one is left alone."""
    missed = f"{name} (pid {pid}) gave no answer for {seconds:g} to {seconds + ROUND_SECONDS:g} s"
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises unless it is a child of ours
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        supervisord.options.logger.warn(f"watchdog: {missed}: killed, to be restarted")
    except (ChildProcessError, ProcessLookupError):
        supervisord.options.logger.info(f"watchdog: {missed}, and has exited by itself")
    finally:
        os.close(handle)
