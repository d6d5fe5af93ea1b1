"""Requests to /metrics that no browser sends. After each the page must still be served."""

from __future__ import annotations

import random
import socket
import urllib.request
from contextlib import suppress

from offline.local.ports import HOST

_LINES = (
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: %s\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: %s\r\n\r\n",
    b"GET /metrics?name[]=%s HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%s HTTP/1.1\r\n\r\n",
    b"%s /metrics HTTP/1.1\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nContent-Length: %s\r\n\r\n",
    b"%s\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nX: ",
)
_WORDS = (
    b"text/plain; version=x",
    b";;q=",
    b"*/*;q=nan",
    b"application/openmetrics-text; version=9",
    b"\xff\xfe",
    b"a" * 5_000,
    b"%00",
    b"-1",
)
_SECONDS = 5.0


def strange_request(port: int, rng: random.Random) -> str:
    """Sends one and reads what comes; returns what is wrong, empty if nothing is."""
    line = rng.choice(_LINES)
    text = line % rng.choice(_WORDS) if b"%s" in line else line
    with suppress(ConnectionError, TimeoutError), socket.create_connection((HOST, port), _SECONDS) as connection:
        connection.settimeout(0.2)
        connection.sendall(text)
        answer = connection.recv(1 << 16)
        if answer.startswith(b"HTTP/1.") and answer.split(b" ", 2)[1] == b"500":
            return f"{text[:60]!r} is answered with 500"
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=_SECONDS) as page:
            return "" if page.status == 200 and b"python_info" in page.read() else "no metrics on the page"
    except OSError as error:
        return f"after {text[:60]!r} /metrics is not served: {error}"
