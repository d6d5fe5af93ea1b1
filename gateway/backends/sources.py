"""The pipeline's sources over gRPC: one pinned bundle version, a deadline per call, and distrust of what comes back."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from gateway.backends.backends import RankBackend, RecallBackend
from gateway.pipeline.measure import TimedResponse, observe_call
from gateway.pipeline.stages import RankSource, RecallSource, SourceAnswer
from recsys import convert
from recsys.domain import RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import ContractBroken
from recsys.logs import request_id_of_call
from recsys.server.calls import after_answer
from recsys.server.telemetry import Telemetry
from recsys.v1 import rank_pb2, recall_pb2

Response = TypeVar("Response", bound=TimedResponse)


class GrpcRecallSource(RecallSource):
    """A recall server, pinned to one bundle version."""

    def __init__(self, backend: RecallBackend, version: str, telemetry: Telemetry) -> None:
        """Asks `backend` for `version` and nothing else."""
        self.name = backend.name
        self.bundle_version = version
        self._backend = backend
        self._telemetry = telemetry

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        """See `RecallSource`; also refuses an answer of another channel."""
        request = recall_pb2.RecallRequest(
            bundle_version=self.bundle_version,
            queries=[convert.recall_query_to_proto(query) for query in queries],
            request_id=request_id_of_call.get(),
        )
        call = self._backend.call(lambda: self._backend.stub.Recall(request, timeout=timeout), timeout)
        response = await _measured(call, f"recall:{self.name}", self._telemetry)
        if response.channel != self.name:
            raise ContractBroken(
                f"{self._backend.target} is channel {response.channel!r}, expected {self.name!r}: check the ports"
            )
        results = [convert.recall_result_from_proto(result) for result in response.results]
        return SourceAnswer(results, response.bundle_version)


class GrpcRankSource(RankSource):
    """The rank server, pinned to one bundle version."""

    def __init__(self, backend: RankBackend, version: str, telemetry: Telemetry) -> None:
        """Asks `backend` for `version` and nothing else."""
        self.name = backend.name
        self.bundle_version = version
        self._backend = backend
        self._telemetry = telemetry

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ASYNC109
        """See `RankSource`."""
        request = rank_pb2.RankRequest(
            bundle_version=self.bundle_version,
            queries=[convert.rank_query_to_proto(query) for query in queries],
            request_id=request_id_of_call.get(),
        )
        call = self._backend.call(lambda: self._backend.stub.Rank(request, timeout=timeout), timeout)
        response = await _measured(call, self.name, self._telemetry)
        results = [convert.rank_result_from_proto(result) for result in response.results]
        return SourceAnswer(results, response.bundle_version)


async def _measured(call: Awaitable[Response], stage: str, telemetry: Telemetry) -> Response:
    """The response; where its time went is recorded once the answer is on its way."""
    started = time.perf_counter()
    response = await call
    seconds = time.perf_counter() - started
    after_answer(lambda: observe_call(telemetry, stage, seconds=seconds, response=response))
    return response
