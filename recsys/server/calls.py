"""What surrounds every call: request id, admission, deadline, error mapping, one log line, one measurement."""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import grpc
from grpc import aio

from recsys.errors import DeadlinePassed, Overloaded, RecsysError
from recsys.logs import request_id_of_call
from recsys.server.status import code_of
from recsys.server.telemetry import Telemetry

logger = logging.getLogger(__name__)

REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id, both ways."""

RETRY_KEY = "grpc-retry-pushback-ms"
"""Trailer of a refused call: after how many milliseconds to retry. gRPC clients with a retry policy follow it
(gRFC A6)."""

MAX_REQUEST_ID = 128
"""Longest request id that is accepted from a caller; longer ones are truncated."""

OUR_PACKAGE = "/recsys.v1."
"""Calls of other services (health, reflection) pass through unchanged."""

Behavior = Callable[[Any, aio.ServicerContext[Any, Any]], Awaitable[Any]]

_facts_of_call: ContextVar[dict[str, object] | None] = ContextVar("facts_of_call", default=None)
_work_after_call: ContextVar[list[Callable[[], None]] | None] = ContextVar("work_after_call", default=None)


def note(**facts: object) -> None:
    """Adds fields to the log line of the current call."""
    known = _facts_of_call.get()
    if known is not None:
        known.update(facts)


def after_answer(work: Callable[[], None]) -> None:
    """Runs `work` once the response of the current call has been sent; immediately if there is no call.

    For measuring and logging: a caller should not wait for either.
    """
    waiting = _work_after_call.get()
    if waiting is None:
        work()
    else:
        waiting.append(work)


def remaining_seconds(context: aio.ServicerContext[Any, Any]) -> float | None:
    """Seconds until the caller's deadline; None if the caller set none (gRPC then reports a huge number)."""
    remaining = context.time_remaining()
    return None if remaining is None or remaining > _FOREVER_SECONDS else remaining


_FOREVER_SECONDS = 1e6

_EARLY_SECONDS = 0.1
_EARLY_SHARE = 0.1
"""A caller's clock starts before the call arrives here, so it gives up a little before the deadline that we know.

By at most this many seconds, or this share of the time allowed, whichever is less: recall has an eighth of a second.
"""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls `Calls` admits, and from when on it calls one slow."""

    in_flight: int = 256
    slow_seconds: float = 0.25


class Calls(aio.ServerInterceptor):  # type: ignore[type-arg]
    """The interceptor of every process. `Status` calls are always admitted and logged at DEBUG."""

    def __init__(self, telemetry: Telemetry, limits: CallLimits | None = None) -> None:
        self._telemetry = telemetry
        self._limits = limits or CallLimits()
        self._admission = asyncio.Semaphore(self._limits.in_flight)
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wraps the handlers of our own unary methods, once each."""
        method: str = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None or not method.startswith(OUR_PACKAGE):
            return handler
        wrapped = grpc.unary_unary_rpc_method_handler(
            self._wrap(method.removeprefix(OUR_PACKAGE), cast("Behavior", handler.unary_unary)),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        self._handlers[method] = wrapped
        return wrapped

    def _wrap(self, method: str, behavior: Behavior) -> Behavior:
        async def answer(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            started, given = time.perf_counter(), remaining_seconds(context)
            request_id = _request_id(request, context)
            facts: dict[str, object] = {}
            later: list[Callable[[], None]] = []
            request_id_of_call.set(request_id)
            _facts_of_call.set(facts)
            _work_after_call.set(later)
            code, details, response = grpc.StatusCode.OK, "", None
            trailers: tuple[tuple[str, str], ...] = ((REQUEST_ID_KEY, request_id),)
            try:
                response = await self._admitted(method, behavior, request, context)
            except RecsysError as error:
                code, details = code_of(error), str(error)
                if isinstance(error, Overloaded) and error.retry_seconds is not None:
                    trailers += ((RETRY_KEY, str(math.ceil(error.retry_seconds * 1e3))),)
            except asyncio.CancelledError:
                code, details = _cancelled(given, remaining_seconds(context))
                raise
            except aio.AbortError:
                code, details = context.code(), context.details()
                raise
            except Exception:
                code = grpc.StatusCode.INTERNAL
                details = f"unexpected error; the server's log has the traceback under request id {request_id}"
                logger.exception("%s failed unexpectedly", method)
            finally:
                seconds = time.perf_counter() - started
                later.append(lambda: self._report(method, code, details, seconds=seconds, facts=facts))
                asyncio.get_running_loop().call_soon(_run_all, later)
            if code is not grpc.StatusCode.OK:
                await context.abort(code, details, trailers)
            return response

        return answer

    async def _admitted(
        self, method: str, behavior: Behavior, request: Any, context: aio.ServicerContext[Any, Any]
    ) -> Any:
        """Runs the handler, unless the deadline has already passed or too many calls are in flight."""
        left = remaining_seconds(context)
        if left is not None and left <= 0:
            raise DeadlinePassed("the deadline had passed when the call arrived; allow it more time")
        if method.endswith("/Status"):
            return await behavior(request, context)
        if self._admission.locked():
            raise Overloaded(
                f"{self._limits.in_flight} calls are in flight, no more are admitted; retry later, or raise "
                "--in-flight-limit"
            )
        async with self._admission:
            self._telemetry.rpc_in_flight.inc()
            try:
                return await behavior(request, context)
            finally:
                self._telemetry.rpc_in_flight.dec()

    def _report(
        self, method: str, code: grpc.StatusCode, details: str, *, seconds: float, facts: dict[str, object]
    ) -> None:
        self._telemetry.rpc_seconds.labels(method, code.name).observe(seconds)
        level = logging.DEBUG if method.endswith("/Status") else logging.INFO
        if code is not grpc.StatusCode.OK or seconds > self._limits.slow_seconds:
            level = logging.WARNING
        if logger.isEnabledFor(level):
            line = {"method": method, "code": code.name, "milliseconds": round(seconds * 1e3, 3), **facts}
            logger.log(level, details or "answered", extra={"facts": line})


def _run_all(later: list[Callable[[], None]]) -> None:
    """Runs the work that was deferred until after the response; a failure does not stop the rest."""
    for work in later:
        try:
            work()
        except Exception:
            logger.exception("a call could not be measured or logged")


def _request_id(request: Any, context: aio.ServicerContext[Any, Any]) -> str:
    """The caller's id, from the metadata or from the message; otherwise a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and value:
            return value[:MAX_REQUEST_ID]
    return getattr(request, "request_id", "")[:MAX_REQUEST_ID] or uuid.uuid4().hex


def _cancelled(given: float | None, left: float | None) -> tuple[grpc.StatusCode, str]:
    """The status of a cancelled call; `given` and `left`: seconds until the deadline at its start and now."""
    if given is not None and left is not None and left <= min(_EARLY_SECONDS, _EARLY_SHARE * given):
        return grpc.StatusCode.DEADLINE_EXCEEDED, "the caller's deadline passed while the call was being processed"
    return grpc.StatusCode.CANCELLED, "the caller cancelled the call"
