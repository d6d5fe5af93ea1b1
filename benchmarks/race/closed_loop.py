"""A closed loop: a fixed number of requests in flight, each followed by the next. h2load sends them.

Each user is one h2load, so that histories of different length are asked alike. One request at a time is sent for one
user after the other.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from race.servers import Target


def command(target: Target, *, in_flight: int, seconds: float, body: Path, log: Path) -> list[str]:
    """h2load with `in_flight` requests in flight for `seconds`: streams of one connection, or connections."""
    shape = ["-c", "1", "-m", str(in_flight)] if target.grpc else ["--h1", "-c", str(in_flight)]
    headers = [part for name, value in target.headers.items() for part in ("-H", f"{name}: {value}")]
    data = ["-d", str(body)] if target.body else []
    return [
        *("h2load", *shape, "-D", f"{round(seconds * 1e3)}ms", f"--log-file={log}"),
        *(*headers, *data, f"http://{target.address}{target.path}"),
    ]


def latencies_of(log: str) -> list[int]:
    """Microseconds of each request of h2load's log that came back with status 200.

    A line is tab-separated: start in microseconds since the epoch, status (-1: none came), microseconds.
    """
    rows = (line.split("\t") for line in log.splitlines())
    return [int(row[2]) for row in rows if row[1] == "200"]


def run(targets: Sequence[Target], *, in_flight: int, seconds: float) -> list[int]:
    """Microseconds of every answer that came within `seconds`.

    `in_flight` requests at a time: 1, or a multiple of the number of targets; otherwise raises ValueError.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if in_flight == 1:
            for number, target in enumerate(targets):
                _end(_start(target, folder, number, in_flight=1, seconds=seconds / len(targets)))
        else:
            each, left = divmod(in_flight, len(targets))
            if left:
                raise ValueError(f"{in_flight} requests in flight for {len(targets)} users; take a multiple")
            for load in [
                _start(target, folder, number, in_flight=each, seconds=seconds) for number, target in enumerate(targets)
            ]:
                _end(load)
        return [taken for log in sorted(folder.glob("*.log")) for taken in latencies_of(log.read_text())]


def _start(target: Target, folder: Path, number: int, *, in_flight: int, seconds: float) -> subprocess.Popen[str]:
    body = folder / f"{number}.body"
    body.write_bytes(target.body)
    arguments = command(target, in_flight=in_flight, seconds=seconds, body=body, log=folder / f"{number}.log")
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _end(load: subprocess.Popen[str]) -> None:
    output, _ = load.communicate()
    if load.returncode:
        raise RuntimeError(f"h2load ended with {load.returncode}: {output[-500:]}")
