"""`RecallService`: converts messages, pins the bundle version, and runs the channel where `Compute` decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from grpc import aio

from recsys import convert
from recsys.domain import RecallQuery, RecallResult
from recsys.server.compute import Compute
from recsys.server.current_call import after_answer, note, note_queries, remaining_seconds, seconds_since_sent
from recsys.server.telemetry import Telemetry, observe_each
from recsys.server.versions import Versions
from recsys.v1 import recall_pb2, recall_pb2_grpc

SERVICE_NAME = recall_pb2.DESCRIPTOR.services_by_name["RecallService"].full_name


class Recaller(Protocol):
    """What the service needs from a channel; `recall_server.channels.base.Channel` is one."""

    def recall(self, queries: Sequence[RecallQuery]) -> list[RecallResult]:
        """One result per query, in order."""


class RecallServicer(recall_pb2_grpc.RecallServiceServicer):
    """One channel behind gRPC."""

    def __init__(self, versions: Versions[Any], compute: Compute, telemetry: Telemetry) -> None:
        """`versions` hold `Recaller`s; their role is the channel's name."""
        self._versions = versions
        self._compute = compute
        self._candidates = telemetry.stage_candidates.labels(stage_name(versions.role), "out")

    async def Recall(  # noqa: N802 - the name is the proto's
        self, request: recall_pb2.RecallRequest, context: aio.ServicerContext[Any, Any]
    ) -> recall_pb2.RecallResponse:
        """Answers a batch with one bundle version."""
        convert.batch_from_proto(request.queries)
        note_queries(request.queries)
        loaded = await self._versions.resolve(request.bundle_version)
        channel: Recaller = loaded.servable
        left = remaining_seconds(context)
        timed = await self._compute.run(
            lambda: answer(channel, request),
            queries=len(request.queries),
            waited_seconds=seconds_since_sent(request.timeout_microseconds, left),
            remaining_seconds=left,
        )
        response = timed.value
        after_answer(lambda: observe_each(self._candidates, list(map(convert.recall_result_size, response.results))))
        note(
            bundle=loaded.version,
            queue_microseconds=timed.queue_microseconds,
            compute_microseconds=timed.compute_microseconds,
        )
        response.channel, response.bundle_version = self._versions.role, loaded.version
        response.queue_microseconds = timed.queue_microseconds
        response.compute_microseconds = timed.compute_microseconds
        return response

    async def Status(  # noqa: N802 - the name is the proto's
        self, request: recall_pb2.RecallServiceStatusRequest, context: aio.ServicerContext[Any, Any]
    ) -> recall_pb2.RecallServiceStatusResponse:
        """Returns which versions are ready or refused."""
        del request, context
        return recall_pb2.RecallServiceStatusResponse(status=self._versions.status())


def answer(channel: Recaller, request: recall_pb2.RecallRequest) -> recall_pb2.RecallResponse:
    """The results of a batch, in the form that its caller reads; raises what the conversion and the channel raise."""
    queries = [
        convert.recall_query_from_proto(message, f"queries[{position}]")
        for position, message in enumerate(request.queries)
    ]
    response = recall_pb2.RecallResponse(packed=request.packed_results)
    for result in channel.recall(queries):
        convert.recall_result_to_proto(result, response.results.add(), packed=request.packed_results)
    return response


def stage_name(channel: str) -> str:
    """The name of a channel's stage in metrics and in the gateway's reports."""
    return f"recall:{channel}"
