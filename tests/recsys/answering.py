"""A server with one service whose answers a test decides, and what tests ask of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recsys.errors import Overloaded
from recsys.server.server import Server, Service
from recsys.server.telemetry import Telemetry
from recsys.v1 import recall_pb2, recall_pb2_grpc

NAME = "recsys.v1.RecallService"
Behavior = Callable[[recall_pb2.RecallRequest, Any], Awaitable[recall_pb2.RecallResponse]]


class Recall(recall_pb2_grpc.RecallServiceServicer):
    """Answers with the request id as the version, unless a test says otherwise."""

    behavior: Behavior | None = None
    error: Overloaded | None = None
    """Why the service refuses its calls."""

    def refusal(self, method: str) -> Overloaded | None:
        assert method in ("RecallService/Recall", "RecallService/Status")
        return self.error if method == "RecallService/Recall" else None

    async def Recall(  # noqa: N802
        self, request: recall_pb2.RecallRequest, context: Any
    ) -> recall_pb2.RecallResponse:
        if self.behavior is not None:
            return await self.behavior(request, context)
        return recall_pb2.RecallResponse(bundle_version=request.request_id)

    async def Status(  # noqa: N802
        self, request: Any, context: Any
    ) -> recall_pb2.RecallServiceStatusResponse:
        return recall_pb2.RecallServiceStatusResponse()


@dataclass
class Running:
    server: Server
    servicer: Recall
    telemetry: Telemetry
    channel: aio.Channel
    stub: Any

    def observed(self, method: str, code: str) -> float:
        labels = {"method": method, "code": code}
        return self.telemetry.registry.get_sample_value("recsys_rpc_seconds_count", labels) or 0.0

    async def health(self, service: str = "") -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await health_pb2_grpc.HealthStub(self.channel).Check(request)).status

    async def error(self, request: recall_pb2.RecallRequest | None = None, **call: Any) -> aio.AioRpcError:
        with pytest.raises(aio.AioRpcError) as caught:
            await self.stub.Recall(request or recall_pb2.RecallRequest(), **call)
        return caught.value


def service_of(servicer: Recall) -> Service:
    def register(server: aio.Server) -> None:
        recall_pb2_grpc.add_RecallServiceServicer_to_server(servicer, server)

    return Service(NAME, register, servicer.refusal)
