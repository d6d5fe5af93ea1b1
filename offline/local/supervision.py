"""supervisord as a child process: its configuration, a watchdog, and a guard that stops it when its parent is gone.

`python -m offline.local.supervision FILE` is supervisord that shuts down when its standard input closes. Its parent
holds the other end, so that even a SIGKILL of the parent leaves nothing running.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from supervisor import supervisord  # type: ignore[import-untyped]

from offline.local import watchdog

STEADY_SECONDS = 10
"""A program that exits sooner has failed to start and is restarted with increasing delays: 1 s, 2 s, 3 s, …"""

_HEADER = """\
[supervisord]
nodaemon = true
silent = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
childlogdir = {folder}

[unix_http_server]
file = {socket}
chmod = 0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """
[program:{name}]
command = {command}
autorestart = true
startsecs = {steady}
startretries = 1000000
stopsignal = TERM
stopwaitsecs = {stop_seconds}
stdout_logfile = {log}
stdout_logfile_maxbytes = 20MB
stdout_logfile_backups = 1
redirect_stderr = true
"""


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


def configuration(
    programs: Sequence[Program],
    folder: Path,
    socket: Path,
    *,
    stop_seconds: int,
    hang_seconds: float = watchdog.HANG_SECONDS,
) -> str:
    """The text of supervisord's configuration. Logs go below `folder`, the watchdog's to supervisord.log."""
    text = _HEADER.format(folder=_escape(str(folder)), socket=_escape(str(socket)))
    text += watchdog.section({program.name: program.target for program in programs}, hang_seconds)
    for program in programs:
        text += _PROGRAM.format(
            name=program.name,
            command=_escape(shlex.join((sys.executable, *program.arguments))),
            steady=STEADY_SECONDS,
            stop_seconds=stop_seconds,
            log=_escape(str(log_file(folder, program.name))),
        )
    return text


def log_file(folder: Path, name: str) -> Path:
    """The log file of the program `name`."""
    return folder / f"{name}.log"


def _escape(text: str) -> str:
    """supervisord expands %(...)s."""
    return text.replace("%", "%%")


def main(file: str) -> None:
    """Runs supervisord until it is stopped, or until standard input closes."""
    threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    supervisord.main(["--nodaemon", "--configuration", file])


def _stop_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1])
