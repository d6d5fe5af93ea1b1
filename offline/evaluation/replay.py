"""Held-out requests, in time order, through a running gateway: quality and latency of the same answers.

A gRPC client and nothing more. Quality comes from the code of `offline.evaluation.evaluate`, so that
both can be compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from gateway.pipeline.request import Request
from offline.evaluation.evaluate import Lists, lists_of
from offline.evaluation.latency import Latency, Timing, latency_of
from offline.protocols.targets import TargetKind, Targets
from recsys import convert
from recsys.bundle import Bundle
from recsys.errors import BundleMismatch, Unreachable
from recsys.v1.recommend_pb2 import RecommendRequest, RecommendResponse, StatusRequest
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub

if TYPE_CHECKING:
    from recsys.v1.recommend_pb2_grpc import RecommendationServiceAsyncStub

NO_ANSWER = RecommendResponse()


class PacingConfig(BaseModel):
    """Requests in flight and deadline of a replay through the gateway."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    in_flight: int = Field(default=4, ge=1, description="maximum number of requests in flight")
    deadline_seconds: float = Field(default=5.0, gt=0, description="longest wait for one answer")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came back."""

    lists: Lists
    """One list per request, in the order of the targets; empty where the request failed."""
    latency: Latency
    bundle_version: str
    """The version that answered all requests."""


def active_version(target: str, *, timeout: float = 10.0) -> str:
    """The bundle version that the gateway at `target` (HOST:PORT) serves.

    Raises Unreachable where nothing answers there, or where the gateway has no bundle.
    """
    with closing(grpc.insecure_channel(target)) as channel:
        try:
            status = RecommendationServiceStub(channel).Status(StatusRequest(), timeout=timeout, wait_for_ready=True)
        except grpc.RpcError as error:
            raise Unreachable(f"no gateway at {target} ({error}); start one with `make serve`") from error
    version: str = status.gateway.active_version
    if not version:
        raise Unreachable(f"the gateway at {target} serves no bundle yet; see its Status")
    return version


def check_cutoff(bundle: Bundle, first_event: int) -> None:
    """Raises BundleMismatch where the bundle was trained on the first held-out event (Unix seconds)."""
    cutoff = bundle.manifest.cutoff
    if cutoff >= first_event:
        raise BundleMismatch(
            f"bundle {bundle.version} ({bundle.manifest.purpose}) has seen everything up to {cutoff}, and the first "
            f"event to replay is of {first_event}: it was trained on the events to replay; serve the evaluation bundle"
        )


def replay(
    target: str, targets: Targets, *, kind: TargetKind, bundle: Bundle, first_event: int, config: PacingConfig
) -> Replayed:
    """Sends `targets` to the gateway at `target`, which serves `bundle`, in order of their moments.

    Targets of kind `all` rely on the histories that the gateway has stored; those of later moments carry theirs.

    Raises:
        BundleMismatch: the bundle has seen what it is asked for, or another version answered.
        Unreachable: not one request was answered.
    """
    check_cutoff(bundle, first_event)
    sender = _Sender(targets, kind, config)
    started = time.perf_counter()
    asyncio.run(sender.run(target))
    seconds = time.perf_counter() - started
    versions = {response.bundle_version for response in sender.responses if response is not NO_ANSWER}
    if not versions:
        raise Unreachable(f"{target}: none of {len(targets)} requests was answered: {sender.timings[0].error}")
    if versions != {bundle.version}:
        raise BundleMismatch(
            f"{target} answered with bundle {', '.join(sorted(versions))}, expected {bundle.version} alone; "
            "replay again when the roll-out is over"
        )
    pairs = [
        ([item.item_id for item in response.items], [item.score for item in response.items])
        for response in sender.responses
    ]
    return Replayed(lists_of(pairs, seconds), latency_of(sender.timings, seconds), bundle.version)


def message_of(request: Request, kind: TargetKind) -> RecommendRequest:
    """The public request; it carries the history unless that is the one of the cut-off, which the gateway has."""
    message = RecommendRequest(as_of=request.as_of, count=request.count, debug=True)
    if request.user_id is not None:
        message.user_id = request.user_id
    if kind != "all":
        message.history.CopyFrom(convert.history_to_proto(request.history))
    return message


class _Sender:
    """Keeps a bounded number of requests under way."""

    def __init__(self, targets: Targets, kind: TargetKind, config: PacingConfig) -> None:
        self._requests, self._kind, self._config = targets.requests, kind, config
        self.responses = [NO_ANSWER] * len(targets)
        self.timings = [Timing(0.0, "not sent")] * len(targets)

    async def run(self, target: str) -> None:
        """Sends everything."""
        order = sorted(range(len(self._requests)), key=lambda position: self._requests[position].as_of)
        with tqdm(order, desc="replay", unit="request", leave=False, disable=None) as progress:
            positions = iter(progress)
            async with grpc.aio.insecure_channel(target) as channel:
                stub = RecommendationServiceStub(channel)
                await asyncio.gather(*(self._work(stub, positions) for _ in range(self._config.in_flight)))

    async def _work(self, stub: RecommendationServiceAsyncStub, positions: Iterator[int]) -> None:
        for position in positions:
            message = message_of(self._requests[position], self._kind)
            started, error, response = time.perf_counter(), "", NO_ANSWER
            try:
                # grpc.aio may return None where the answer arrives just as the deadline passes
                answer = await stub.Recommend(message, timeout=self._config.deadline_seconds)
                response, error = (answer, "") if answer is not None else (NO_ANSWER, "DEADLINE_EXCEEDED")
            except grpc.aio.AioRpcError as failure:
                error = f"{failure.code().name}: {failure.details()}"
            stages = {stage.name: stage.microseconds / 1e6 for stage in response.stages}
            self.timings[position] = Timing(time.perf_counter() - started, error, response.degraded, stages)
            self.responses[position] = response
