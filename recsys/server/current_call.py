"""The call that is in progress: what its handler can note of it, leave for after the answer, and learn of its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import grpc
from grpc import aio

MAX_REQUEST_ID = 128
"""Longest request id that is accepted from a caller; longer ones are truncated."""

REQUEST_IDS = "request_ids"
"""The fact that names the request of each query of a batch, in order."""

_FOREVER_SECONDS = 1e6


class Call:
    """A call in progress, and how it ended."""

    __slots__ = ("code", "details", "facts", "given", "later", "method", "seconds", "started")

    def __init__(self, method: str, given: float | None) -> None:
        """`method` as Service/Method; `given`: seconds until the deadline as the call begins, None without one."""
        self.started = time.perf_counter()
        self.method = method
        self.given = given
        self.facts: dict[str, object] = {}
        self.later: list[Callable[[], None]] | None = []
        """What to do once the response has been sent; None from then on."""
        self.code = grpc.StatusCode.OK
        self.details = ""
        self.seconds = 0.0


current: ContextVar[Call | None] = ContextVar("current_call", default=None)


def note(**facts: object) -> None:
    """Adds fields to the log line of the current call."""
    call = current.get()
    if call is not None:
        call.facts.update(facts)


def note_queries(queries: Sequence[Any]) -> None:
    """Notes how many queries the current call has, and the request of each, so that the log can be searched for it."""
    note(queries=len(queries), **{REQUEST_IDS: [query.request_id[:MAX_REQUEST_ID] for query in queries]})


def after_answer(work: Callable[[], None]) -> None:
    """Runs `work` once the response of the current call has been sent; at once if it has been, or if there is no call.

    For measuring and logging: a caller should not wait for either.
    """
    call = current.get()
    if call is None or call.later is None:
        work()
    else:
        call.later.append(work)


def seconds_since_sent(timeout_microseconds: int, left: float | None) -> float:
    """Seconds from when the caller sent the current call until now: on the way, and in every queue before this point.

    `timeout_microseconds` is what the caller gave the call, `left` what remains of it: gRPC begins to count when the
    call reaches this process, also while the event loop is busy with others. Without either it is the time since the
    call was taken up. Deadlines travel rounded up, to 1 ms below a second and to a hundredth above: the result is too
    small by up to that, and never negative.
    """
    if timeout_microseconds > 0 and left is not None:
        return max(0.0, timeout_microseconds / 1e6 - left)
    call = current.get()
    return 0.0 if call is None else time.perf_counter() - call.started


def remaining_seconds(context: aio.ServicerContext[Any, Any]) -> float | None:
    """Seconds until the caller's deadline; None if the caller set none (gRPC then reports a huge number)."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _FOREVER_SECONDS else remaining
