"""Kills supervised servers that hang, so that supervisord, which only notices a death, restarts them.

An extension of supervisord, loaded by its configuration ([rpcinterface:…] is how supervisord lets in code that sees
its state). A stopped or deadlocked process keeps its port: connections succeed, and nothing is ever answered.
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

from recsys import healthcheck

HANG_SECONDS = 8.0
"""A server that answered before and is silent for this long is killed. Longer than any pause of a healthy one.

It counts from the first question without an answer, so a server lives up to `ROUND_SECONDS` longer than this after it
fell silent.
"""

ROUND_SECONDS = 1.0
"""How often a server that answers is asked."""

SILENT_ROUNDS = 2
"""Questions in a row without an answer after which a server is killed; it may take its share of the time for each.

A server on a busy machine is slow to answer, and lives. Two, for the answer to one is lost where the watchdog slept.
"""

BUSY_ROUNDS = 8
"""The same for a server that worked meanwhile: overloaded, it will answer yet; in an endless loop it never will."""

BUSY_SHARE = 0.1
"""A server works that used this share of a core between two questions; one that is stopped or deadlocked uses none."""

_NO_ANSWER = ("DEADLINE_EXCEEDED", "UNAVAILABLE")
"""Every other status, NOT_SERVING or an error, comes from a server that lives."""

_WATCHED = (ProcessStates.STARTING, ProcessStates.RUNNING)
"""A server that stops is supervisord's: it is killed after `stopwaitsecs`."""


@dataclass(slots=True)
class Silence:
    """Rounds in a row in which one process gave no answer; 0 until it answered for the first time."""

    pid: int = 0
    rounds: int = 0
    idle: int = 0
    """Those of them in which it did not work either."""
    _spoke: bool = False

    def note(self, pid: int, *, answered: bool, worked: bool = False) -> None:
        """Adds a round of the process `pid`. A new process may take as long as it needs to start."""
        if pid != self.pid:
            self.pid, self._spoke = pid, False
        self._spoke |= answered
        silent = self._spoke and not answered
        self.rounds = self.rounds + 1 if silent else 0
        self.idle = self.idle + (not worked) if silent else 0

    @property
    def too_long(self) -> bool:
        """Whether the process is to be killed."""
        return self.idle >= SILENT_ROUNDS or self.rounds >= BUSY_ROUNDS


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

    Rounds are counted, not time: a machine or supervisor that was asleep has asked nobody meanwhile.
    """
    allowed = float(hang_seconds) / SILENT_ROUNDS
    for pair in targets.split(","):
        name, _, target = pair.partition("=")
        threading.Thread(target=_watch, args=(supervisord, name, target, allowed), daemon=True).start()
    return object()  # supervisord publishes its methods over XML-RPC: there are none


def _watch(supervisord: Any, name: str, target: str, allowed: float) -> None:
    silence = Silence()
    while supervisord.options.mood >= SupervisorStates.RUNNING:
        began = time.monotonic()
        process = supervisord.process_groups[name].processes[name]
        pid = process.pid
        if pid and process.state in _WATCHED:
            used = _cpu_seconds(pid)
            answered = not healthcheck.state(target, timeout_seconds=allowed).startswith(_NO_ANSWER)
            if not answered:  # a call that was refused leaves it the rest of its time
                time.sleep(max(0.0, began + allowed - time.monotonic()))
            worked = _cpu_seconds(pid) - used >= BUSY_SHARE * allowed
            silence.note(pid, answered=answered, worked=worked)
            if silence.too_long and process.pid == pid and process.state in _WATCHED:
                _kill(supervisord, name, silence, silence.rounds * allowed)
                silence = Silence()  # supervisord may not have buried it by the next round: one kill is enough
        time.sleep(max(0.0, began + ROUND_SECONDS - time.monotonic()))


def _cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kill(supervisord: Any, name: str, silence: Silence, seconds: float) -> None:
    """Kills the process unless it is gone; its number may belong to another one by now, which is never hit."""
    said = f"{name} (pid {silence.pid}) gave no answer for {seconds:g} to {seconds + ROUND_SECONDS:g} s"
    try:
        handle = os.pidfd_open(silence.pid)
    except ProcessLookupError:
        return
    try:
        os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises where it is no child of ours
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        supervisord.options.logger.warn(f"watchdog: {said}: killed, to be restarted")
    except (ChildProcessError, ProcessLookupError):
        supervisord.options.logger.info(f"watchdog: {said}, and ended by itself")
    finally:
        os.close(handle)
