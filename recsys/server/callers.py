"""What is taken from a caller and told to one: the request and its id, the text of an error, trailers.

Whatever is sent, or quoted, is bounded and printable.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import DecodeError

from recsys.errors import InvalidRequest, RecsysError
from recsys.logs import cut, escape
from recsys.server.current_call import MAX_REQUEST_ID

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id, both ways."""

RETRY_KEY = "grpc-retry-pushback-ms"
"""Trailer of a refused call: after how many milliseconds to retry. gRPC clients with a retry policy follow it
(gRFC A6)."""

_DETAILS_BYTES = 1_024
"""Of an error's text; encoded for a trailer a byte may take three."""


def request_id_of(metadata: Iterable[tuple[str, str | bytes]] | None, request: Any = None) -> str:
    """The caller's id, from the metadata or from the message; a new one if there is none that can be sent back.

    gRPC never ends a call whose trailers are not printable ASCII.
    """
    sent = (value for key, value in metadata or () if key == REQUEST_ID_KEY and isinstance(value, str) and value)
    found = next(sent, "") or getattr(request, "request_id", "")
    return found[:MAX_REQUEST_ID] if found.isascii() and found.isprintable() and found else new_request_id()


def decoded(message: bytes, decode: Callable[[bytes], Any]) -> Any:
    """The request, or an InvalidRequest in place of it. gRPC itself would answer UNKNOWN, and log a traceback."""
    try:
        return decode(message)
    except DecodeError:
        return InvalidRequest(f"{len(message)} bytes that are no request of this method; encode it as its proto says")


def details_of(error: RecsysError) -> str:
    """What the caller is told. It may quote what was sent, and gRPC fails a call whose trailers exceed 8 KiB."""
    return escape(cut(str(error), _DETAILS_BYTES))


def trailers_of(request_id: str, retry_seconds: float | None) -> tuple[tuple[str, str], ...]:
    """The trailers of a call that failed."""
    retry = () if retry_seconds is None else ((RETRY_KEY, str(math.ceil(retry_seconds * 1e3))),)
    return ((REQUEST_ID_KEY, request_id), *retry)


def new_request_id() -> str:
    """128 random bits in hexadecimal."""
    return os.urandom(16).hex()
