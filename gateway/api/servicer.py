"""The public API: proto in, proto out. In between are `parsing`, the pipeline, and `responses`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import grpc

from gateway.api import parsing, responses
from gateway.api.parsing import ParsedRequest
from gateway.backends.backends import Backend
from gateway.bundle.resolve import EMPTY_IDENTITIES
from gateway.config import GatewayConfig
from gateway.events.answers import AnswerLog, LoggedAnswer, served_order
from gateway.events.recorder import EventRecorder
from gateway.pipeline.batching import Batcher
from gateway.pipeline.measure import observe_stages
from gateway.pipeline.stages import Budget, Status
from gateway.pipeline.work import Answer
from gateway.rollout import Rollout
from gateway.serving import Serving
from recsys.errors import InvalidRequest, NotFound, Overloaded
from recsys.server.callers import new_request_id
from recsys.server.current_call import after_answer, note, remaining_seconds
from recsys.server.server import Service
from recsys.server.telemetry import Telemetry
from recsys.v1 import recommend_pb2, recommend_pb2_grpc, types_pb2

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class GatewayServicer(recommend_pb2_grpc.RecommendationServiceServicer):
    """The four public methods."""

    config: GatewayConfig
    rollout: Rollout
    backends: Sequence[Backend]
    recorder: EventRecorder
    answers: AnswerLog
    telemetry: Telemetry
    own_status: Callable[[], types_pb2.ServingStatus]
    clock: Callable[[], float] = time.time
    new_request_id: Callable[[], str] = new_request_id

    def service(self) -> Service:
        """These methods, as a server takes them."""

        def register(server: grpc.aio.Server) -> None:
            recommend_pb2_grpc.add_RecommendationServiceServicer_to_server(self, server)

        return Service("recsys.v1.RecommendationService", register, self.refusal)

    async def Recommend(  # noqa: N802 - gRPC's name
        self, request: recommend_pb2.RecommendRequest, context: Context
    ) -> recommend_pb2.RecommendResponse:
        """See recommend.proto."""
        with self._counted():
            serving, now, budget = self.rollout.serving(), int(self.clock()), self._budget(context)
            serving.recommend.admit(budget)
            parsed = await parsing.parse_recommend(request, serving.bundle, self.recorder, now)
            answer = await _answer(serving.recommend, parsed, budget)
            response = recommend_pb2.RecommendResponse(
                items=responses.items_to_proto(answer, serving.bundle),
                stages=responses.stages_to_proto(answer.stages) if answer.degraded or parsed.debug else (),
            )
            self._finish("Recommend", serving, parsed, answer, response)
            return response

    async def SimilarItems(  # noqa: N802 - gRPC's name
        self, request: recommend_pb2.SimilarItemsRequest, context: Context
    ) -> recommend_pb2.SimilarItemsResponse:
        """See recommend.proto."""
        with self._counted():
            serving, budget = self.rollout.serving(), self._budget(context)
            serving.similar.admit(budget)
            parsed = parsing.parse_similar(request, serving.bundle, int(self.clock()))
            answer = await _answer(serving.similar, parsed, budget)
            response = recommend_pb2.SimilarItemsResponse(
                items=responses.items_to_proto(answer, serving.bundle),
                stages=responses.stages_to_proto(answer.stages) if answer.degraded else (),
            )
            self._finish("SimilarItems", serving, parsed, answer, response)
            return response

    async def RecordEvents(  # noqa: N802 - gRPC's name
        self, request: recommend_pb2.RecordEventsRequest, context: Context
    ) -> recommend_pb2.RecordEventsResponse:
        """See recommend.proto. Works without a bundle: numeric keys need none."""
        del context
        active = self.rollout.active
        identities = EMPTY_IDENTITIES if active is None else active.bundle.identities
        events = parsing.parse_events(request, identities, int(self.clock()))
        recorded = await self.recorder.record(events) if events else 0
        note(events=len(events), recorded=recorded)
        return recommend_pb2.RecordEventsResponse(recorded=recorded, duplicates=len(events) - recorded)

    async def Status(  # noqa: N802 - gRPC's name
        self, request: recommend_pb2.StatusRequest, context: Context
    ) -> recommend_pb2.StatusResponse:
        """See recommend.proto."""
        del request, context
        used_names = self.rollout.used_names
        backends = [
            recommend_pb2.BackendStatus(
                name=backend.name,
                target=backend.target,
                reachable=backend.reachable,
                cause=backend.cause,
                status=backend.status,
            )
            for backend in self.backends
            if not used_names or backend.name in used_names
        ]
        status = self.own_status()
        status.active_version = self.rollout.active.version if self.rollout.active is not None else ""
        return recommend_pb2.StatusResponse(gateway=status, backends=backends)

    def refusal(self, method: str) -> Overloaded | None:
        """Why a call of `method` would be refused even if its caller allowed all the time that an answer may take.

        It is counted as refused.
        """
        active = self.rollout.active
        batcher = None if active is None else active.batcher(method)
        error = None if batcher is None else batcher.refusal(self.config.budget_seconds)
        if error is not None:
            self.telemetry.requests.labels("refused").inc()
        return error

    def _budget(self, context: Context) -> Budget:
        """The time that the gateway takes for an answer: its own budget, or what the caller's deadline leaves."""
        seconds, left = self.config.budget_seconds, remaining_seconds(context)
        if left is not None:
            seconds = min(seconds, left - self.config.deadline_margin_seconds)
        return Budget.of(seconds)

    def _finish(
        self,
        method: str,
        serving: Serving,
        parsed: ParsedRequest,
        answer: Answer,
        response: recommend_pb2.RecommendResponse | recommend_pb2.SimilarItemsResponse,
    ) -> None:
        """Fills in what identifies the answer; it is measured and logged once it has been sent."""
        response.request_id = self.new_request_id()
        response.bundle_version = serving.version
        response.degraded = answer.degraded
        logged = LoggedAnswer(
            response.request_id,
            method,
            parsed.user_key,
            int(self.clock()),
            parsed.request.as_of,
            serving.version,
            served_order(answer.stages),
            answer.degraded,
            answer.candidates,
            answer.scores,
        )
        note(answer=logged.request_id, bundle=serving.version, policy=logged.policy, items=len(answer.candidates))
        if answer.degraded:
            note(degraded=[stage.name for stage in answer.stages if stage.status is not Status.OK])
        after_answer(lambda: self._record(answer, logged))

    def _record(self, answer: Answer, logged: LoggedAnswer) -> None:
        observe_stages(self.telemetry, answer.stages)
        self.telemetry.requests.labels("degraded" if answer.degraded else "ok").inc()
        self.answers.add(logged)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts requests that get no answer."""
        try:
            yield
        except (InvalidRequest, NotFound):
            self.telemetry.requests.labels("invalid").inc()
            raise
        except Overloaded:
            self.telemetry.requests.labels("refused").inc()
            raise
        except BaseException:
            self.telemetry.requests.labels("failed").inc()
            raise


async def _answer(batcher: Batcher, parsed: ParsedRequest, budget: Budget) -> Answer:
    answer = await batcher.answer(parsed.request, budget)
    return replace(answer, stages=(*parsed.stages, *answer.stages))
