"""What the clients of the open loop have in common: a request, what is sent and expected, and a precise wait."""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OK, DEGRADED, REFUSED, FAILED, LATE = "ok", "degraded", "refused", "failed", "late"
"""How a request ends. `degraded`: an answer that is not the expected one."""

RECEIVED = 1 << 18
"""Bytes to read at a time."""


@dataclass(slots=True)
class Sent:
    """One request; `outcome` is empty while it is under way."""

    due: float
    user: int
    """Index of the target."""
    sent: float = 0.0
    latency: float = 0.0
    """Seconds from `due` to the last byte, or to giving up."""
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Wire:
    """What is sent for one user, and what must come back."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    expected: bytes
    """The body, without what differs from answer to answer."""


class Client(ABC):
    """Connections to one server. `ready` reads what arrived and returns the requests that ended."""

    def __init__(self, address: str, wires: Sequence[Wire]) -> None:
        host, _, port = address.rpartition(":")
        self.place, self.authority, self.wires = (host, int(port)), address, wires
        self.epoll = select.epoll()
        self.connections: dict[int, Any] = {}
        self._sockets: list[socket.socket] = []

    def open_socket(self, *, blocking: bool) -> socket.socket:
        """A socket without Nagle's delay. Blocking: it is connected. Otherwise it will be when it can be written to."""
        connection = socket.socket()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(blocking)
        if blocking:
            connection.connect(self.place)
        else:
            connection.connect_ex(self.place)
        self.epoll.register(connection.fileno(), select.EPOLLIN if blocking else select.EPOLLOUT)
        self._sockets.append(connection)
        return connection

    def close(self) -> None:
        """Closes every connection."""
        for connection in self._sockets:
            connection.close()
        self.epoll.close()

    def wait(self, seconds: float) -> list[Sent]:
        """Requests that ended, after `seconds` at most: `select` waits by the microsecond, `epoll` does not."""
        ended: list[Sent] = []
        if select.select([self.epoll.fileno()], [], [], max(0.0, seconds))[0]:
            for number, _ in self.epoll.poll(0):
                if number in self.connections:
                    ended += self.connections[number].ready()
        return ended

    @abstractmethod
    def send(self, request: Sent) -> None:
        """Sends a request now, or as soon as a connection is free."""

    @abstractmethod
    def give_up(self, request: Sent) -> None:
        """Ends a request that is still under way: its caller has gone."""
