"""A closed loop: a fixed number of requests in flight, each followed by the next. h2load sends them.

Each user is one h2load, so that histories of different length are asked alike. With one request in flight, one user is
asked after the other.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from race.servers import Target


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it, as h2load saw it: to it, an error of gRPC is an answer."""

    microseconds: list[int]
    """Of every answer."""
    failed: int
    """Answers with another status than 200, and none."""


def command(target: Target, *, in_flight: int, seconds: float, body: Path, log: Path) -> list[str]:
    """h2load with `in_flight` requests in flight for `seconds`: streams of one connection, or connections."""
    shape = ["-c", "1", "-m", str(in_flight)] if target.grpc else ["--h1", "-c", str(in_flight)]
    headers = [part for name, value in target.headers.items() for part in ("-H", f"{name}: {value}")]
    data = ["-d", str(body)] if target.body else []
    return [
        *("h2load", *shape, "-D", f"{round(seconds * 1e3)}ms", f"--log-file={log}"),
        *(*headers, *data, f"http://{target.address}{target.path}"),
    ]


def done_of(log: str) -> Done:
    """From h2load's log; a line is tab-separated: start, status (-1: none came), microseconds."""
    rows = [line.split("\t") for line in log.splitlines()]
    answered = [int(row[2]) for row in rows if row[1] == "200"]
    return Done(answered, len(rows) - len(answered))


def run(targets: Sequence[Target], *, in_flight: int, seconds: float) -> Done:
    """Everything that ended within `seconds`.

    `in_flight` requests at a time: 1, or a multiple of the number of targets; otherwise raises ValueError.
    """
    each, left = divmod(in_flight, len(targets))
    if left and in_flight > 1:
        raise ValueError(f"{in_flight} requests in flight for {len(targets)} users; take a multiple")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if in_flight == 1:
            for number, target in enumerate(targets):
                _end(_start(target, folder, number, in_flight=1, seconds=seconds / len(targets)))
        else:
            loads = [
                _start(target, folder, number, in_flight=each, seconds=seconds) for number, target in enumerate(targets)
            ]
            for load in loads:
                _end(load)
        return done_of("".join(log.read_text() for log in sorted(folder.glob("*.log"))))


def _start(target: Target, folder: Path, number: int, *, in_flight: int, seconds: float) -> subprocess.Popen[str]:
    body = folder / f"{number}.body"
    body.write_bytes(target.body)
    arguments = command(target, in_flight=in_flight, seconds=seconds, body=body, log=folder / f"{number}.log")
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _end(load: subprocess.Popen[str]) -> None:
    output, _ = load.communicate()
    if load.returncode:
        raise RuntimeError(f"h2load ended with {load.returncode}: {output[-500:]}")
