"""Kills supervised servers that hang, so that they are started again: supervision by itself only notices a death.

A stopped or deadlocked process keeps its port: connections succeed, and nothing is ever answered. A busy one does not
answer either, for a while; its event loop tells them apart, which sends a beat every second
(`recsys.server.server`): a server whose loop runs and that uses the CPU is busy, and never killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from offline.local.log_file import limit_size
from offline.local.supervision import SupervisedProgram
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
"""The same for a server that used the CPU while its event loop was silent: an endless loop will never answer."""

MAX_MISSED_LOADING = 75
"""The same for a server that has announced that it loads (`recsys.server.loading`): five minutes by default."""

BUSY_SHARE = 0.1
"""Share of a core above which a server counts as busy during a check; a stopped or deadlocked one uses none."""

_NO_ANSWER = ("DEADLINE_EXCEEDED", "UNAVAILABLE")
"""Every other status, NOT_SERVING or an error, comes from a server that is alive."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What one health check has found out about a process."""

    answered: bool
    beats: bool = False
    """Whether its event loop has sent a beat meanwhile."""
    busy: bool = False
    """Whether it has used the CPU meanwhile."""
    loading: bool = False
    """Whether it had announced that it loads."""


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

    def record(self, pid: int, check: HealthCheck) -> None:
        """Adds one check of the process `pid`. A new process may take as long as it needs to start."""
        if pid != self.pid:
            self.pid, self._has_answered = pid, False
        self._has_answered |= check.answered
        if check.answered or not self._has_answered or (check.beats and check.busy):
            self.missed = self.missed_idle = self.missed_loading = 0
            return
        self.missed += 1
        self.missed_loading += check.loading
        self.missed_idle += not check.busy and not check.loading

    @property
    def too_many(self) -> bool:
        """Whether the process is to be killed."""
        return (
            self.missed_idle >= MAX_MISSED_IDLE
            or self.missed - self.missed_loading >= MAX_MISSED
            or self.missed_loading >= MAX_MISSED_LOADING
        )


def watch(server: SupervisedProgram, hang_seconds: float, ended: Event, say: Callable[[str], None]) -> None:
    """Checks the server until `ended`; to be run in a thread of its own.

    Checks are counted, not time: while the machine or the supervisor was suspended, nothing was checked.
    """
    allowed, checks, name = hang_seconds / MAX_MISSED_IDLE, MissedHealthChecks(), server.program.name
    while not ended.is_set():
        began = time.monotonic()
        limit_size(server.log, server.complain)
        pid = server.pid
        if pid and server.state in ("starting", "running"):
            check = _check(server, pid, allowed, ended)
            checks.record(pid, check)
            if check.answered and server.is_lost and server.pid == pid:
                server.is_lost = False
                say(f"{name} is back (pid {pid})")
            if checks.too_many and not ended.is_set():
                seconds = checks.missed * allowed
                if server.kill(pid):
                    say(f"{name} (pid {pid}) gave no answer for {seconds:g} to {seconds + ROUND_SECONDS:g} s: killed")
                checks = MissedHealthChecks()  # one kill is enough
        ended.wait(max(0.0, began + ROUND_SECONDS - time.monotonic()))


def _check(server: SupervisedProgram, pid: int, allowed: float, ended: Event) -> HealthCheck:
    """One health check, which takes `allowed` seconds if there is no answer."""
    began, used, loading = time.monotonic(), _cpu_seconds(pid), is_loading(pid)
    server.heard_beat()  # forgets those before
    answered = not healthcheck.state(server.program.target, timeout_seconds=allowed).startswith(_NO_ANSWER)
    if not answered:  # a refused connection returns early: wait for the rest of the time
        ended.wait(max(0.0, began + allowed - time.monotonic()))
    busy = _cpu_seconds(pid) - used >= BUSY_SHARE * allowed
    return HealthCheck(answered, server.heard_beat(), busy, loading or is_loading(pid))


def _cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process; 0 if the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
