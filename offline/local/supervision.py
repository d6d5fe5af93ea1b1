"""One supervised program: a thread starts it, waits for its end, and starts it again after a delay."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offline.local.log_file import open_to_append

logger = logging.getLogger(__name__)

STEADY_SECONDS = 10.0
"""A program that lived as long has started well: its next delay is the first again."""

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 10.0
"""Between the end of a program and its next start; each delay is twice the one before, up to this."""

NEVER_STARTED = 127
"""Stands for the exit code of a program that the system could not start."""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process."""

    name: str
    arguments: tuple[str, ...]
    """What follows the Python interpreter on the command line."""
    target: str
    """HOST:PORT of its gRPC server."""
    metrics_target: str = ""
    """HOST:PORT of its metrics; empty if unknown."""
    shared_target: str = ""
    """HOST:PORT that it shares with the other processes of its role; empty if it is the only one."""
    of_role: str = ""
    """What it serves; empty if it has the name of its role."""

    @property
    def role(self) -> str:
        """What it serves."""
        return self.of_role or self.name


class SupervisedProgram:
    """Keeps a program running until `stop`.

    The program gets a session of its own, so that signals of a terminal do not reach it, and one end of a pair of
    sockets as its input: it sends beats there, and sees the end of its owner, however that ends.
    """

    def __init__(self, program: Program, log: Path, say: Callable[[str], None]) -> None:
        """`say` gets a line for each death and each complaint; it must not block."""
        self.program = program
        self.log = log
        self._say = say
        self._complaints: set[str] = set()
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner_end: socket.socket | None = None
        self._began = 0.0
        self.code = NEVER_STARTED
        """Exit code of the last process that ended; negative: the signal."""
        self.is_lost = False
        """Whether it has died and nobody has heard its successor."""
        self.failure = ""
        """Why it is not supervised any more, if it is not."""
        self._thread = threading.Thread(target=self._run, name=f"supervise-{program.name}", daemon=True)

    def start(self) -> None:
        """Starts the program; returns at once."""
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the running process; 0 if there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else 0

    @property
    def state(self) -> str:
        """`starting`, `running`, `waiting` (for the next start), `stopping` or `stopped`."""
        if self._stopping.is_set():
            return "stopping" if self._thread.is_alive() else "stopped"
        if not self.pid:
            return "waiting"
        return "running" if time.monotonic() - self._began >= STEADY_SECONDS else "starting"

    def terminate(self) -> None:
        """Asks the process to drain and end; it will not be started again."""
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.terminate()

    def join(self, seconds: float) -> bool:
        """Whether it has ended, after at most `seconds`."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def kill(self, pid: int) -> bool:
        """Kills the process if it is still the one with that pid; whether it was."""
        with self._lock:
            if not pid or self.pid != pid or self._process is None:
                return False
            self._process.kill()
            return True

    def heard_beat(self) -> bool:
        """Whether the process has sent a beat since the last call."""
        heard = False
        with self._lock:
            try:
                while self._owner_end is not None and self._owner_end.recv(1 << 10):
                    heard = True
            except OSError:  # nothing more to read, or the process has gone
                pass
        return heard

    def complain(self, text: str) -> None:
        """Says something that would otherwise be repeated once."""
        if text not in self._complaints:
            self._complaints.add(text)
            self._say(f"{self.program.name}: {text}")

    def _run(self) -> None:
        try:
            self._keep_running()
        except Exception as error:
            logger.exception("the supervision of %s ends", self.program.name)
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._close_owner_end()

    def _keep_running(self) -> None:
        delay = FIRST_DELAY_SECONDS
        while not self._stopping.is_set():
            self._began = time.monotonic()
            ending = self._run_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - self._began >= STEADY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            self.is_lost = True
            self._say(f"{self.program.name} {ending}; restarts in {delay:g} s")
            self._stopping.wait(delay)
            delay = min(2 * delay, MAX_DELAY_SECONDS)

    def _run_once(self) -> str:
        """Starts the process and waits for its end; returns how it ended."""
        try:
            process = self._started()
        except OSError as error:  # no process, memory or descriptor left: perhaps later
            return f"could not be started ({error.strerror})"
        if process is not None:
            self.code = process.wait()
        return f"died ({_ending(self.code)})"

    def _started(self) -> subprocess.Popen[bytes] | None:
        """A new process; None if it is to stop."""
        with self._lock:
            if self._stopping.is_set():
                return None
            self._close_owner_end()
            self._owner_end, child_end = socket.socketpair()
            self._owner_end.setblocking(False)  # noqa: FBT003 - the name of the parameter is positional only
            with child_end:
                output = open_to_append(self.log, self.complain)
                try:
                    self._process = subprocess.Popen(  # noqa: S603 - our own modules
                        [sys.executable, *self.program.arguments],
                        stdin=child_end.fileno(),
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                finally:
                    os.close(output)
            return self._process

    def _close_owner_end(self) -> None:
        with self._lock:
            if self._owner_end is not None:
                self._owner_end.close()
                self._owner_end = None


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}"
