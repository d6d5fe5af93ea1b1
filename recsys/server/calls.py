"""What surrounds every call: request id, admission, deadline, error mapping, one log line, one measurement."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import grpc
from grpc import aio

from recsys.errors import DeadlinePassed, InvalidRequest, Overloaded, RecsysError
from recsys.logs import request_id_of_call
from recsys.server.callers import decoded, details_of, request_id_of, trailers_of
from recsys.server.current_call import REQUEST_IDS, Call, current, remaining_seconds
from recsys.server.status import code_of
from recsys.server.telemetry import Telemetry

logger = logging.getLogger(__name__)

OUR_PACKAGE = "/recsys.v1."
"""What the full names of our methods begin with, and their names in metrics and logs do not."""

DEGRADED = "degraded"
"""The fact that marks a call whose answer is not complete; such a call always leaves a line."""

Behavior = Callable[[Any, aio.ServicerContext[Any, Any]], Awaitable[Any]]

Refusal = Callable[[str], Overloaded | None]
"""Why a call of a method (Service/Method) cannot be answered now, whatever time its caller allows; None if it can."""

_STATUS = "/Status"
_OF_MANY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""How a call ends that is one of thousands when it does: a line for each would take the time that is missing."""
_RETRY_SECONDS = 0.1
"""When a caller may try again who was refused because of the calls in flight: by then many of them have ended."""
_EARLY_SECONDS = 0.1
_EARLY_SHARE = 0.1
"""A caller's clock starts before the call arrives here, so it gives up a little before the deadline that we know.

By at most this many seconds, or this share of the time allowed, whichever is less: recall has an eighth of a second.
"""


def admit_all(method: str) -> None:
    """The `Refusal` of a service that admits every call."""
    del method


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls of each method `Calls` admits at a time, and which ones leave a line in the log."""

    in_flight: int = 256
    slow_seconds: float = 0.25
    """From when on a call is slow."""
    log_sample: int = 1
    """Of ordinary calls, 1 in this many is logged; slow, failed and degraded ones always are."""
    lines_per_second: int = 10
    """So many ordinary calls are logged in any case: while there are few, all are."""


class Calls:
    """What every call of a process passes through. `Status` calls are always admitted.

    Not an interceptor: gRPC runs those as coroutines for each call, which costs more than all of this.
    """

    def __init__(self, telemetry: Telemetry, limits: CallLimits | None = None) -> None:
        self._seconds = telemetry.rpc_seconds
        self._limits = limits or CallLimits()
        self._in_flight: Counter[str] = Counter()
        """By method: a disk that holds up the calls of one must not get those of another refused."""
        self._second, self._lines = 0, 0
        telemetry.rpc_in_flight.set_function(lambda: sum(tuple(self._in_flight.values())))

    def surround(
        self, service: grpc.GenericRpcHandler[Any, Any], refusal: Refusal = admit_all
    ) -> grpc.GenericRpcHandler[Any, Any]:
        """The same service, with each unary method wrapped once. `refusal` is asked before a call's message is read."""
        return _Surrounded(service, self._surrounded, partial(self._refused, refusal))

    def _refused(
        self, refusal: Refusal, method: str, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """What refuses a call without reading its message, if there is a reason to.

        Far above the load that a process sustains nearly all calls are refused: what that costs, the others lack.
        """
        if method.endswith(_STATUS):
            return None
        error = self._too_many(method) or refusal(method)
        if error is None:
            return None
        call, request_id = Call(method, None), request_id_of(details.invocation_metadata)
        call.code, call.details = code_of(error), details_of(error)
        request_id_of_call.set(request_id)
        self._report(call)
        trailers = trailers_of(request_id, error.retry_seconds)

        async def refuse(messages: object, context: aio.ServicerContext[Any, Any]) -> None:
            del messages
            context.set_code(call.code)
            context.set_details(call.details)
            context.set_trailing_metadata(trailers)

        return grpc.stream_unary_rpc_method_handler(refuse)

    def _too_many(self, method: str) -> Overloaded | None:
        if self._in_flight[method] < self._limits.in_flight:
            return None
        return Overloaded(
            f"{self._limits.in_flight} calls of {method} are in flight, no more are admitted; retry later, or raise "
            "--in-flight-limit",
            retry_seconds=_RETRY_SECONDS,
        )

    def _surrounded(self, method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        if handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._wrap(
                method,
                cast("Behavior", handler.unary_unary),
                cast("Callable[[bytes], Any]", handler.request_deserializer),
            ),
            response_serializer=handler.response_serializer,
        )

    def _wrap(self, method: str, behavior: Behavior, decode: Callable[[bytes], Any]) -> Behavior:
        async def answer(message: bytes, context: aio.ServicerContext[Any, Any]) -> Any:
            call = Call(method, remaining_seconds(context))
            request = decoded(message, decode)
            request_id = request_id_of(context.invocation_metadata(), request)
            request_id_of_call.set(request_id)
            current.set(call)
            retry_seconds: float | None = None
            try:
                return await self._admitted(method, behavior, request, context)
            except RecsysError as error:
                call.code, call.details = code_of(error), details_of(error)
                retry_seconds = error.retry_seconds if isinstance(error, Overloaded) else None
            except asyncio.CancelledError:
                call.code, call.details = _cancelled(call.given, remaining_seconds(context))
                raise
            except aio.AbortError:
                call.code, call.details = context.code(), context.details()
                raise
            except Exception:
                call.code = grpc.StatusCode.INTERNAL
                call.details = f"unexpected error; the server's log has the traceback under request id {request_id}"
                logger.exception("%s failed unexpectedly", method)
            finally:
                call.seconds = time.perf_counter() - call.started
                asyncio.get_running_loop().call_soon(self._end, call)
            return await context.abort(call.code, call.details, trailers_of(request_id, retry_seconds))

        return answer

    async def _admitted(
        self, method: str, behavior: Behavior, request: Any, context: aio.ServicerContext[Any, Any]
    ) -> Any:
        """Runs the handler, unless there is no request, its deadline has passed or too many calls are in flight."""
        if isinstance(request, InvalidRequest):
            raise request
        left = remaining_seconds(context)
        if left is not None and left <= 0:
            raise DeadlinePassed("the deadline had passed when the call was taken up; allow it more time")
        if method.endswith(_STATUS):
            return await behavior(request, context)
        if error := self._too_many(method):  # others have come in since its message was read
            raise error
        self._in_flight[method] += 1
        try:
            return await behavior(request, context)
        finally:
            self._in_flight[method] -= 1

    def _end(self, call: Call) -> None:
        """Does what was left for after the response, measures and logs; a failure does not stop the rest."""
        waiting: list[Callable[[], None]] = [*(call.later or ()), partial(self._report, call)]
        call.later = None
        for work in waiting:
            try:
                work()
            except Exception:
                logger.exception("a call could not be measured or logged")

    def _report(self, call: Call) -> None:
        self._seconds.labels(call.method, call.code.name).observe(call.seconds)
        level = self._level(call)
        if logger.isEnabledFor(level) and (level == logging.DEBUG or self._is_chosen(call, level)):
            line = {"method": call.method, "code": call.code.name, "milliseconds": round(call.seconds * 1e3, 3)}
            logger.log(level, call.details or "answered", extra={"facts": line | call.facts})

    def _level(self, call: Call) -> int:
        if call.code is not grpc.StatusCode.OK or call.seconds > self._limits.slow_seconds:
            return logging.WARNING
        return logging.DEBUG if call.method.endswith(_STATUS) else logging.INFO

    def _is_chosen(self, call: Call, level: int) -> bool:
        """Whether a call leaves a line. All do that failed, were slow or are degraded; of the others, and of those that
        ended as calls do under overload, a sample.

        Where there are many, its request ids decide, so that all processes choose the same requests.
        """
        if self._limits.log_sample == 1 or DEGRADED in call.facts or self._is_one_of_few(int(call.started)):
            return True
        if level == logging.WARNING and call.code not in _OF_MANY:
            return True
        ids = cast("Iterable[str]", call.facts.get(REQUEST_IDS) or (request_id_of_call.get(),))
        return any(zlib.crc32(request_id.encode()) % self._limits.log_sample == 0 for request_id in ids)

    def _is_one_of_few(self, second: int) -> bool:
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        return self._lines <= self._limits.lines_per_second


class _Surrounded(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Methods of a service, each wrapped when it is first called."""

    def __init__(
        self,
        service: grpc.GenericRpcHandler[Any, Any],
        wrap: Callable[[str, grpc.RpcMethodHandler[Any, Any]], grpc.RpcMethodHandler[Any, Any]],
        refused: Callable[[str, grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
    ) -> None:
        self._service, self._wrap, self._refused = service, wrap, refused
        self._wrapped: dict[str, tuple[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        """By full name: Service/Method, and the handler."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of the method that is called; None if the service has none."""
        known = self._wrapped.get(details.method)
        if known is None and (handler := self._service.service(details)) is not None:
            method = details.method.removeprefix(OUR_PACKAGE)
            known = self._wrapped[details.method] = method, self._wrap(method, handler)
        return None if known is None else self._refused(known[0], details) or known[1]


def _cancelled(given: float | None, left: float | None) -> tuple[grpc.StatusCode, str]:
    """The status of a cancelled call; `given` and `left`: seconds until the deadline at its start and now."""
    if given is not None and left is not None and left <= min(_EARLY_SECONDS, _EARLY_SHARE * given):
        return grpc.StatusCode.DEADLINE_EXCEEDED, "the caller's deadline passed while the call was being processed"
    return grpc.StatusCode.CANCELLED, "the caller cancelled the call"
