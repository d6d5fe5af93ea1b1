"""HTTP/2 by hand: connections that say nothing, and messages that never end."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_END_HEADERS, _ACK, _INITIAL_WINDOW = 4, 1, 4
_WINDOW = 65_535
"""Bytes that may be sent before the other side says more (RFC 9113, 6.9.2)."""
_FRAME_BYTES = 16_384
_SPARE_DESCRIPTORS = 500


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame (RFC 9113)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _field(name: str, value: str) -> bytes:
    """A header field for HPACK, neither indexed nor compressed."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def head(path: str) -> bytes:
    """What a gRPC call of the method at `path` begins with."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return b"".join(_field(name, value) for name, value in fields.items())


@contextmanager
def connections(target: str, count: int) -> Iterator[list[socket.socket]]:
    """`count` connections that have sent what HTTP/2 begins with; those that are refused are left out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + _SPARE_DESCRIPTORS)), hard))
    host, _, port = target.rpartition(":")
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            with suppress(OSError):
                one = socket.create_connection((host, int(port)), timeout=2)
                opened.append(one)
                one.sendall(PREFACE + frame(_SETTINGS, 0, 0, b""))
        yield opened
    finally:
        for one in opened:
            one.close()


class HalfMessage:
    """A gRPC message of which less is sent than was announced, as fast as the server's flow control allows."""

    def __init__(self, connection: socket.socket, path: str, *, announced: int, sent: int) -> None:
        self._connection = connection
        self._body = memoryview(bytes(1) + announced.to_bytes(4, "big") + bytes(sent))
        self._windows = {0: _WINDOW, 1: _WINDOW}
        """Bytes that may be sent, on the connection and on the stream."""
        self._initial = _WINDOW
        self._received = bytearray()
        self.is_over = False
        """Everything is sent, or the server has closed the connection."""
        connection.setblocking(False)
        self._write(frame(_HEADERS, _END_HEADERS, 1, head(path)))

    def step(self) -> None:
        """Reads what has come and sends what may be sent; does not wait."""
        try:
            while data := self._connection.recv(1 << 16):
                self._received += data
            self.is_over = True
        except BlockingIOError:
            self._take_frames()
        except OSError:
            self.is_over = True
        while not self.is_over and (n := min(*self._windows.values(), _FRAME_BYTES, len(self._body))) > 0:
            self._write(frame(_DATA, 0, 1, bytes(self._body[:n])))
            self._body = self._body[n:]
            self._windows = {stream: window - n for stream, window in self._windows.items()}
        self.is_over |= not self._body

    def _write(self, data: bytes) -> None:
        try:
            self._connection.setblocking(True)
            self._connection.settimeout(0.5)
            self._connection.sendall(data)
        except OSError:
            self.is_over = True
        finally:
            self._connection.setblocking(False)

    def _take_frames(self) -> None:
        """Larger windows are noted; settings and pings, by which a server measures us, are acknowledged."""
        while len(self._received) >= 9 and len(self._received) >= 9 + int.from_bytes(self._received[:3], "big"):
            end = 9 + int.from_bytes(self._received[:3], "big")
            kind, flags, stream = self._received[3], self._received[4], int.from_bytes(self._received[5:9], "big")
            payload = bytes(self._received[9:end])
            del self._received[:end]
            if kind == _WINDOW_UPDATE and stream in self._windows:
                self._windows[stream] += int.from_bytes(payload, "big")
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                self._take_settings(payload if kind == _SETTINGS else b"")
                self._write(frame(kind, _ACK, 0, payload if kind == _PING else b""))

    def _take_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            if int.from_bytes(payload[at : at + 2], "big") == _INITIAL_WINDOW:
                window = int.from_bytes(payload[at + 2 : at + 6], "big")
                self._windows[1] += window - self._initial
                self._initial = window

    @property
    def left(self) -> int:
        """Bytes that are not sent."""
        return len(self._body)


def send_halves(connections: list[socket.socket], path: str, *, announced: int, sent: int, seconds: float) -> int:
    """Sends all side by side, for `seconds` at most; returns how many bytes could not be sent."""
    messages = [HalfMessage(one, path, announced=announced, sent=sent) for one in connections]
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and not all(message.is_over for message in messages):
        for message in messages:
            if not message.is_over:
                message.step()
        time.sleep(0.01)
    return sum(message.left for message in messages)
