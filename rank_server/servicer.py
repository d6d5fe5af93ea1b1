"""`RankService`: converts messages, pins the bundle version, and runs the ranker where `Compute` decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from grpc import aio
from numpy.typing import NDArray

from recsys import convert
from recsys.contracts import check_scores
from recsys.domain import RankQuery, Scores
from recsys.errors import ContractBroken
from recsys.server.compute import Compute
from recsys.server.current_call import after_answer, note, note_queries, remaining_seconds, seconds_since_sent
from recsys.server.telemetry import Telemetry, observe_each
from recsys.server.versions import Versions
from recsys.v1 import rank_pb2, rank_pb2_grpc

SERVICE_NAME = rank_pb2.DESCRIPTOR.services_by_name["RankService"].full_name

ROLE = "rank"
"""The ranker's role in the bundle, and its stage in metrics and reports."""


class Scorer(Protocol):
    """What the service needs from a ranker; `rank_server.scoring.Ranker` is one."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Columns of `features`."""

    def score(self, queries: Sequence[RankQuery]) -> list[Scores]:
        """Per query one score per candidate."""

    def features(self, queries: Sequence[RankQuery]) -> list[NDArray[np.float32]]:
        """Per query float32[n, len(feature_names)]."""


class RankServicer(rank_pb2_grpc.RankServiceServicer):
    """The ranker behind gRPC."""

    def __init__(self, versions: Versions[Any], compute: Compute, telemetry: Telemetry) -> None:
        """`versions` hold `Scorer`s."""
        self._versions = versions
        self._compute = compute
        self._candidates = telemetry.stage_candidates.labels(ROLE, "in")

    async def Rank(  # noqa: N802 - the name is the proto's
        self, request: rank_pb2.RankRequest, context: aio.ServicerContext[Any, Any]
    ) -> rank_pb2.RankResponse:
        """Scores a batch with one bundle version."""
        convert.batch_from_proto(request.queries)
        note_queries(request.queries)
        loaded = await self._versions.resolve(request.bundle_version)
        ranker: Scorer = loaded.servable
        left = remaining_seconds(context)
        timed = await self._compute.run(
            lambda: answer(ranker, request),
            queries=len(request.queries),
            waited_seconds=seconds_since_sent(request.timeout_microseconds, left),
            remaining_seconds=left,
        )
        after_answer(lambda: observe_each(self._candidates, list(map(convert.candidate_count, request.queries))))
        note(
            bundle=loaded.version,
            queue_microseconds=timed.queue_microseconds,
            compute_microseconds=timed.compute_microseconds,
        )
        response = timed.value
        response.bundle_version = loaded.version
        response.queue_microseconds = timed.queue_microseconds
        response.compute_microseconds = timed.compute_microseconds
        return response

    async def Status(  # noqa: N802 - the name is the proto's
        self, request: rank_pb2.RankServiceStatusRequest, context: aio.ServicerContext[Any, Any]
    ) -> rank_pb2.RankServiceStatusResponse:
        """Returns which versions are ready or refused."""
        del request, context
        return rank_pb2.RankServiceStatusResponse(status=self._versions.status())


def answer(ranker: Scorer, request: rank_pb2.RankRequest) -> rank_pb2.RankResponse:
    """The results of a batch, in the form that its caller reads.

    Raises:
        InvalidRequest: a message is invalid, or names an unknown item.
        ContractBroken: a score is missing or not finite.
    """
    queries = [
        convert.rank_query_from_proto(message, f"queries[{position}]")
        for position, message in enumerate(request.queries)
    ]
    scores = ranker.score(queries)
    if len(scores) != len(queries):
        raise ContractBroken(f"ranker: {len(scores)} results for {len(queries)} queries")
    packed = request.packed_results
    response = rank_pb2.RankResponse(packed=packed)
    for message, query, one in zip(request.queries, queries, scores, strict=True):
        check_scores("ranker", query, one)
        result = convert.rank_result_to_proto(one, response.results.add(), packed=packed)
        if message.return_features:
            convert.rank_features_to_proto(ranker.features([query])[0], ranker.feature_names, result, packed=packed)
    return response
