"""gRPC's own services, health and reflection, under the rule of ours: bytes that are no request are INVALID_ARGUMENT.

By themselves they answer UNKNOWN, and log a traceback for each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import grpc
from grpc import aio

from recsys.errors import InvalidRequest
from recsys.server.callers import decoded, details_of
from recsys.server.status import code_of

_Context = aio.ServicerContext[Any, Any]


class Guard:
    """Stands for a server while these services are added to it."""

    def __init__(self, server: aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, services: Sequence[grpc.GenericRpcHandler[Any, Any]]) -> None:
        """Adds them, guarded."""
        self._server.add_generic_rpc_handlers([_Guarded(service) for service in services])

    def add_registered_method_handlers(self, name: str, handlers: Mapping[str, object]) -> None:
        """Nothing: these would be a second way to the same methods. grpc.aio has none either."""


class _Guarded(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, service: grpc.GenericRpcHandler[Any, Any]) -> None:
        self._service = service

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of the method that is called; None if the service has none."""
        handler = self._service.service(details)
        return None if handler is None else _guarded(handler)


def _guarded(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    decode = partial(decoded, decode=cast("Callable[[bytes], Any]", handler.request_deserializer))
    if handler.stream_stream is not None:
        behavior: Any = handler.stream_stream

        async def converse(requests: AsyncIterator[Any], context: _Context) -> AsyncIterator[Any]:
            async for response in behavior(_checked(requests, context), context):
                yield response

        return grpc.stream_stream_rpc_method_handler(cast("Any", converse), decode, handler.response_serializer)
    one: Any = handler.unary_unary or handler.unary_stream

    async def answer(request: Any, context: _Context) -> Any:
        return await one(await _check(request, context), context)

    make: Any = grpc.unary_unary_rpc_method_handler if handler.unary_unary else grpc.unary_stream_rpc_method_handler
    return cast("grpc.RpcMethodHandler[Any, Any]", make(answer, decode, handler.response_serializer))


async def _check(request: Any, context: _Context) -> Any:
    """The request; one that is none ends the call."""
    if isinstance(request, InvalidRequest):
        await context.abort(code_of(request), details_of(request))
    return request


async def _checked(requests: AsyncIterator[Any], context: _Context) -> AsyncIterator[Any]:
    async for request in requests:
        yield await _check(request, context)
