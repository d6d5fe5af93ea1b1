"""Where the servers of one machine listen, and how many there are of each."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from recsys.config import METRICS_PORTS, PORTS, WORKER_STEP
from recsys.errors import CannotStart

HOST = "127.0.0.1"
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


def check_free(name: str, target: str) -> None:
    """Raises CannotStart if another process listens at `target`, HOST:PORT of the server `name`."""
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
