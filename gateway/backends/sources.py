"""The pipeline's sources over gRPC: one pinned bundle version, a deadline per call, and distrust of what comes back."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from gateway.backends.backends import Backend, RankBackend, RecallBackend
from gateway.backends.workers import Workers
from gateway.pipeline.measure import TimedResponse, observe_call
from gateway.pipeline.stages import RankSource, RecallSource, SourceAnswer
from recsys import convert
from recsys.domain import RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import BundleMismatch
from recsys.server.telemetry import Telemetry
from recsys.v1 import rank_pb2, recall_pb2

logger = logging.getLogger(__name__)


class BatchResponse(TimedResponse, Protocol):
    """An answer to a batch."""

    @property
    def packed(self) -> bool:
        """Whether the process has read `packed_results`."""


Response = TypeVar("Response", bound=BatchResponse)


class GrpcRecallSource(RecallSource):
    """The recall servers of one channel, pinned to one bundle version."""

    def __init__(self, workers: Workers[RecallBackend], version: str, telemetry: Telemetry) -> None:
        """Asks `workers` for `version` and nothing else."""
        self.name = workers.name
        self.bundle_version = version
        self._workers = workers
        self._telemetry = telemetry

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        """See `RecallSource`; also refuses an answer of another channel."""
        response = await self._workers.ask(self.bundle_version, timeout, partial(self._answer, queries))
        results = [convert.recall_result_from_proto(result) for result in response.results]
        return SourceAnswer(results, response.bundle_version)

    async def _answer(
        self, queries: Sequence[RecallQuery], backend: RecallBackend, seconds: float
    ) -> recall_pb2.RecallResponse:
        response = await _understood(backend, partial(self._ask, queries, backend), seconds)
        if response.channel != self.name:
            raise BundleMismatch(
                f"{backend.target} is channel {response.channel!r}, expected {self.name!r}: check the ports"
            )
        return response

    def _ask(
        self, queries: Sequence[RecallQuery], backend: RecallBackend, seconds: float, *, packed: bool
    ) -> Awaitable[recall_pb2.RecallResponse]:
        request = recall_pb2.RecallRequest(
            bundle_version=self.bundle_version,
            packed_results=packed,
            timeout_microseconds=int(seconds * 1e6),
        )
        for query in queries:
            convert.recall_query_to_proto(query, request.queries.add(), packed=packed)
        call = backend.call(lambda: backend.stub.Recall(request, timeout=seconds), seconds)
        return _measured(call, f"recall:{self.name}", self._telemetry)


class GrpcRankSource(RankSource):
    """The rank servers, pinned to one bundle version."""

    def __init__(self, workers: Workers[RankBackend], version: str, telemetry: Telemetry) -> None:
        """Asks `workers` for `version` and nothing else."""
        self.name = workers.name
        self.bundle_version = version
        self._workers = workers
        self._telemetry = telemetry

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ASYNC109
        """See `RankSource`."""
        response = await self._workers.ask(self.bundle_version, timeout, partial(self._answer, queries))
        results = [convert.rank_result_from_proto(result) for result in response.results]
        return SourceAnswer(results, response.bundle_version)

    async def _answer(
        self, queries: Sequence[RankQuery], backend: RankBackend, seconds: float
    ) -> rank_pb2.RankResponse:
        return await _understood(backend, partial(self._ask, queries, backend), seconds)

    def _ask(
        self, queries: Sequence[RankQuery], backend: RankBackend, seconds: float, *, packed: bool
    ) -> Awaitable[rank_pb2.RankResponse]:
        request = rank_pb2.RankRequest(
            bundle_version=self.bundle_version,
            packed_results=packed,
            timeout_microseconds=int(seconds * 1e6),
        )
        for query in queries:
            convert.rank_query_to_proto(query, request.queries.add(), packed=packed)
        call = backend.call(lambda: backend.stub.Rank(request, timeout=seconds), seconds)
        return _measured(call, self.name, self._telemetry)


async def _understood(
    backend: Backend,
    ask: Callable[..., Awaitable[Response]],
    timeout: float,  # noqa: ASYNC109
) -> Response:
    """The answer of a process that has read what was sent; `ask(seconds, packed=…)` makes one call.

    A process may be replaced by one of an older version after its last probe. That one reads nothing in packed fields
    and answers another question, without an error. Its answer is dropped, and it is asked again in the old form.
    """
    started = time.perf_counter()
    if backend.reads_packed:
        response = await ask(timeout, packed=True)
        if response.packed:
            return response
        backend.reads_packed = False
        logger.warning("%s at %s does not read packed fields any more", backend.name, backend.target)
    return await ask(timeout - (time.perf_counter() - started), packed=False)


async def _measured(call: Awaitable[Response], stage: str, telemetry: Telemetry) -> Response:
    """The response; records where its time went."""
    started = time.perf_counter()
    response = await call
    observe_call(telemetry, stage, seconds=time.perf_counter() - started, response=response)
    return response
