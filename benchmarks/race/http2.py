"""The open loop's gRPC: as little of HTTP/2 (RFC 9113) as that takes.

The client of a library takes more processor time, on the cores that the server needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from race.clients import DEGRADED, FAILED, LATE, OK, RECEIVED, REFUSED, Client, Sent, Wire

CONNECTIONS = 8
_MAX_WINDOW = (1 << 31) - 1

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
_REFUSED_STREAM, _CANCEL = (7).to_bytes(4, "big"), (8).to_bytes(4, "big")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame of HTTP/2."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def frames(buffer: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each complete frame, which is removed from the buffer."""
    start = 0
    while len(buffer) - start >= 9:
        end = start + 9 + int.from_bytes(buffer[start : start + 3], "big")
        if end > len(buffer):
            break
        stream = int.from_bytes(buffer[start + 5 : start + 9], "big") & _MAX_WINDOW
        yield buffer[start + 3], buffer[start + 4], stream, bytes(buffer[start + 9 : end])
        start = end
    del buffer[:start]


def literal(name: str, value: str) -> bytes:
    """A header field for HPACK (RFC 7541) that is neither indexed nor compressed; both shorter than 127 bytes."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def grpc_status(block: bytes) -> int | None:
    """The gRPC status in a block of header fields whose sender was told to keep no table; None where it has none."""
    at = block.find(_STATUS)
    if at < 0:
        return None
    length, digits = block[at + len(_STATUS)], block[at + len(_STATUS) + 1 :]
    return int(digits[:length])


_STATUS = b"grpc-status"
_OF_STATUS = {4: LATE, 8: REFUSED}  # DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED


class GrpcClient(Client):
    """HTTP/2 with the requests spread over `CONNECTIONS` connections."""

    def __init__(self, address: str, wires: Sequence[Wire]) -> None:
        super().__init__(address, wires)
        self.heads = [self._head(wire) for wire in wires]
        self._all = [GrpcConnection(self) for _ in range(CONNECTIONS)]
        self._carried: dict[int, tuple[GrpcConnection, int]] = {}
        self._next = 0

    def _head(self, wire: Wire) -> bytes:
        fields = {":method": "POST", ":scheme": "http", ":path": wire.path, ":authority": self.authority}
        return b"".join(literal(name, value) for name, value in {**fields, **wire.headers}.items())

    def send(self, request: Sent) -> None:
        """See `Client`."""
        connection = self._all[self._next % len(self._all)]
        self._next += 1
        self._carried[id(request)] = connection, connection.send(request)

    def give_up(self, request: Sent) -> None:
        """See `Client`."""
        connection, stream = self._carried.pop(id(request))
        connection.give_up(stream)

    def ended(self, request: Sent) -> Sent:
        """Forgets where a request went."""
        self._carried.pop(id(request), None)
        return request


class GrpcConnection:
    """One connection of a `GrpcClient`."""

    def __init__(self, client: GrpcClient) -> None:
        self._client = client
        self._socket = client.open_socket(blocking=True)
        self._buffer = bytearray()
        self._stream = -1
        self._requests: dict[int, Sent] = {}
        self._bodies: dict[int, bytes] = {}
        client.connections[self._socket.fileno()] = self
        no_table = (1).to_bytes(2, "big") + (0).to_bytes(4, "big")
        window = (4).to_bytes(2, "big") + _MAX_WINDOW.to_bytes(4, "big")
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, no_table + window)
            + frame(WINDOW_UPDATE, 0, 0, (_MAX_WINDOW - 65_535).to_bytes(4, "big"))
        )

    def send(self, request: Sent) -> int:
        """Sends the request and returns its stream."""
        self._stream += 2
        self._requests[self._stream] = request
        self._socket.sendall(
            frame(HEADERS, END_HEADERS, self._stream, self._client.heads[request.user])
            + frame(DATA, END_STREAM, self._stream, self._client.wires[request.user].body)
        )
        return self._stream

    def give_up(self, stream: int) -> None:
        """Resets a stream."""
        if self._requests.pop(stream, None) is not None:
            self._bodies.pop(stream, None)
            self._socket.sendall(frame(RST_STREAM, 0, stream, _CANCEL))

    def ready(self) -> list[Sent]:
        """Reads what is there; the requests that ended."""
        data = self._socket.recv(RECEIVED)
        self._buffer += data
        ended: list[Sent] = []
        for kind, flags, stream, payload in frames(self._buffer):
            if kind == DATA and stream in self._requests:
                self._bodies[stream] = self._bodies.get(stream, b"") + payload
            if kind == SETTINGS and not flags & ACK:
                self._socket.sendall(frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self._socket.sendall(frame(PING, ACK, 0, payload))
            elif kind == RST_STREAM and stream in self._requests:
                ended.append(self._reset(stream, payload))
            elif stream in self._requests and flags & END_STREAM and kind in (DATA, HEADERS):
                ended.append(self._end(stream, payload if kind == HEADERS else b""))
        if not data:
            ended += [self._end(stream, b"") for stream in list(self._requests)]
            self._client.epoll.unregister(self._socket.fileno())
        return ended

    def _end(self, stream: int, trailers: bytes) -> Sent:
        request, body = self._requests.pop(stream), self._bodies.pop(stream, b"")
        status = grpc_status(trailers)
        if status == 0:
            expected = self._client.wires[request.user].expected
            request.outcome = OK if without_request_id(body[5:]) == expected else DEGRADED
        else:
            request.outcome = _OF_STATUS.get(status, FAILED)
        return self._client.ended(request)

    def _reset(self, stream: int, code: bytes) -> Sent:
        request = self._requests.pop(stream)
        self._bodies.pop(stream, None)
        request.outcome = REFUSED if code == _REFUSED_STREAM else FAILED
        return self._client.ended(request)


def without_request_id(message: bytes) -> bytes:
    """A serialised `RecommendResponse` without its first field, the request id, if that is what it begins with."""
    return message[2 + message[1] :] if message[:1] == b"\x0a" else message
