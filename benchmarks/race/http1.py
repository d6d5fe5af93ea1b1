"""The open loop's HTTP/1.1."""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from race.clients import DEGRADED, FAILED, OK, RECEIVED, REFUSED, Client, Sent, Wire

FIRST_CONNECTIONS = 64
"""Opened before the first request, and used in turn, so that every worker of a server gets its share."""
MOST_CONNECTIONS = 256


class HTTP1Client(Client):
    """One request per connection at a time, up to `MOST_CONNECTIONS`; further requests wait, and their clocks run."""

    def __init__(self, address: str, wires: Sequence[Wire]) -> None:
        super().__init__(address, wires)
        self.idle: deque[HTTP1Connection] = deque()
        self.waiting: deque[Sent] = deque()
        self.carried: dict[int, HTTP1Connection] = {}
        self.texts = [self._text(wire) for wire in wires]
        self.idle.extend(HTTP1Connection(self) for _ in range(FIRST_CONNECTIONS))

    def _text(self, wire: Wire) -> bytes:
        method = "POST" if wire.body else "GET"
        headers = {"host": self.authority, **wire.headers}
        if wire.body:
            headers["content-length"] = str(len(wire.body))
        lines = [f"{method} {wire.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + wire.body

    def send(self, request: Sent) -> None:
        """See `Client`."""
        if not self.idle and len(self.connections) >= MOST_CONNECTIONS:
            self.waiting.append(request)
            return
        connection = self.idle.popleft() if self.idle else HTTP1Connection(self)
        self.carried[id(request)] = connection
        connection.send(request)

    def give_up(self, request: Sent) -> None:
        """See `Client`."""
        connection = self.carried.pop(id(request), None)
        if connection is not None:
            connection.close()
            self.next_waiting()

    def next_waiting(self) -> None:
        """Sends the next request that waits for a connection and whose caller is still there."""
        while self.waiting:
            request = self.waiting.popleft()
            if not request.outcome:
                self.send(request)
                return


class HTTP1Connection:
    """One connection of an `HTTP1Client`."""

    def __init__(self, client: HTTP1Client) -> None:
        self._client = client
        self._socket = client.open_socket(blocking=False)
        self._connected = False
        self._buffer = b""
        self._request: Sent | None = None
        client.connections[self._socket.fileno()] = self

    def send(self, request: Sent) -> None:
        """Sends the request; the connection is busy until its answer is complete."""
        self._request, self._buffer = request, b""
        if self._connected:
            self._socket.send(self._client.texts[request.user])

    def ready(self) -> list[Sent]:
        """Sends when it has connected, and reads what is there; the request, if it has ended."""
        if not self._connected and not self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._connected = True
            self._client.epoll.modify(self._socket.fileno(), select.EPOLLIN)
            if self._request is not None:
                self._socket.send(self._client.texts[self._request.user])
            return []
        request, data = self._request, b""
        with suppress(ConnectionError):
            data = self._socket.recv(RECEIVED)
        self._buffer += data
        answer = http1_answer(self._buffer)
        if request is None or (answer is None and data):
            if not data:
                self.close()
            return []
        self._client.carried.pop(id(request), None)
        if answer is None:
            self.close()
            request.outcome = FAILED
        else:
            status, body = answer
            right = body == self._client.wires[request.user].expected
            request.outcome = _OF_STATUS.get(status, FAILED) if status != 200 else OK if right else DEGRADED
            self._request = None
            self._client.idle.append(self)
        self._client.next_waiting()
        return [request]

    def close(self) -> None:
        """Closes the connection, whatever it is doing."""
        number = self._socket.fileno()
        self._client.epoll.unregister(number)
        del self._client.connections[number]
        if self in self._client.idle:
            self._client.idle.remove(self)
        self._socket.close()


_OF_STATUS = {429: REFUSED, 503: REFUSED}


def http1_answer(text: bytes) -> tuple[int, bytes] | None:
    """Status and body of an answer with a content-length; None while it is not complete."""
    head, separator, rest = text.partition(b"\r\n\r\n")
    if not separator:
        return None
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return (int(head[9:12]), rest[:length]) if len(rest) >= length else None
