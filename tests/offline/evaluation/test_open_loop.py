"""Load at a fixed rate: a stalled server is asked no less, and waiting counts from the moment a request was due."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from offline.evaluation.open_loop import TimedAnswer, percentiles, send_at_rate, stage_shares
from recsys.errors import Unreachable
from recsys.v1.recommend_pb2 import RecommendRequest, RecommendResponse
from recsys.v1.recommend_pb2_grpc import RecommendationServiceServicer, add_RecommendationServiceServicer_to_server
from recsys.v1.types_pb2 import Stage
from tests.waiting import PATIENCE_SECONDS

Context = grpc.aio.ServicerContext[RecommendRequest, RecommendResponse]
Answer = Callable[[RecommendRequest, Context], Awaitable[RecommendResponse]]


class FakeGateway(RecommendationServiceServicer):
    """Answers as a function says, and remembers when it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[int, float]] = []

    async def Recommend(self, request: RecommendRequest, context: Context) -> RecommendResponse:  # noqa: N802
        self.asked.append((request.user_id, time.perf_counter()))
        return await self.answer(request, context)


@asynccontextmanager
async def serving(gateway: FakeGateway) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_RecommendationServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def echo(request: RecommendRequest, context: Context) -> RecommendResponse:
    return RecommendResponse(request_id=str(request.user_id))


def _requests(n: int) -> list[RecommendRequest]:
    return [RecommendRequest(user_id=number) for number in range(n)]


def _samples(*latencies: float, responses: Sequence[RecommendResponse | None] | None = None) -> list[TimedAnswer]:
    answers = responses or [None] * len(latencies)
    return [TimedAnswer(0.0, latency, "", answer) for latency, answer in zip(latencies, answers, strict=True)]


async def test_samples_are_in_the_order_of_the_requests() -> None:
    async def later_first(request: RecommendRequest, context: Context) -> RecommendResponse:
        await asyncio.sleep(0.02 * (5 - request.user_id))
        return await echo(request, context)

    async with serving(FakeGateway(later_first)) as target:
        samples = await send_at_rate(target, _requests(5), rate=1_000, deadline_seconds=PATIENCE_SECONDS)
    assert [sample.response.request_id for sample in samples if sample.response] == ["0", "1", "2", "3", "4"]
    assert [sample.due for sample in samples] == [0.0, 0.001, 0.002, 0.003, 0.004]
    assert [sample.error for sample in samples] == [""] * 5


async def test_requests_are_sent_when_they_are_due_whatever_the_server_does() -> None:
    stalled = asyncio.Event()

    async def stall(request: RecommendRequest, context: Context) -> RecommendResponse:
        if request.user_id == 9:  # a closed loop would never come as far
            stalled.set()
        await stalled.wait()
        return await echo(request, context)

    gateway = FakeGateway(stall)
    async with serving(gateway) as target:
        start = time.perf_counter()
        samples = await send_at_rate(target, _requests(10), rate=20, deadline_seconds=PATIENCE_SECONDS)
    assert sorted(user for user, _ in gateway.asked) == list(range(10))
    assert all(moment >= start + user / 20 for user, moment in gateway.asked)
    assert [sample.error for sample in samples] == [""] * 10
    assert samples[0].latency > samples[9].latency


async def test_latency_counts_from_the_due_time() -> None:
    """The first request holds the server for 0.4 s; those behind it waited, each 20 ms less than the one before."""
    one_at_a_time = asyncio.Lock()

    async def serve(request: RecommendRequest, context: Context) -> RecommendResponse:
        async with one_at_a_time:
            if request.user_id == 0:
                await asyncio.sleep(0.4)
            return await echo(request, context)

    async with serving(FakeGateway(serve)) as target:
        samples = await send_at_rate(target, _requests(10), rate=50, deadline_seconds=PATIENCE_SECONDS)
    for number, sample in enumerate(samples):
        assert sample.latency >= 0.4 - number / 50 - 0.005, number


async def test_a_sender_that_is_late_itself_does_not_hide_it() -> None:
    """The whole process is held up: requests that were due meanwhile are sent late, and count as waiting."""

    async def block(request: RecommendRequest, context: Context) -> RecommendResponse:
        if request.user_id == 0:
            time.sleep(0.4)  # noqa: ASYNC251 - holds up the sender's loop, too
        return await echo(request, context)

    async with serving(FakeGateway(block)) as target:
        samples = await send_at_rate(target, _requests(5), rate=50, deadline_seconds=PATIENCE_SECONDS)
    assert samples[4].latency >= 0.4 - 4 / 50 - 0.005


async def test_errors_are_samples_with_the_time_they_took() -> None:
    async def refuse(request: RecommendRequest, context: Context) -> RecommendResponse:
        if request.user_id == 1:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "count: at most 500")
        if request.user_id == 2:
            await asyncio.sleep(600)
        return await echo(request, context)

    async with serving(FakeGateway(refuse)) as target:
        samples = await send_at_rate(target, _requests(4), rate=1_000, deadline_seconds=2.0)
    assert [sample.response is None for sample in samples] == [False, True, True, False]
    assert samples[1].error == "INVALID_ARGUMENT: count: at most 500"
    assert samples[2].error.startswith("DEADLINE_EXCEEDED: ")
    assert 2.0 <= samples[2].latency < PATIENCE_SECONDS


async def test_a_run_may_end_when_something_has_happened() -> None:
    third = asyncio.Event()

    async def notice(request: RecommendRequest, context: Context) -> RecommendResponse:
        if request.user_id == 2:
            third.set()
        return await echo(request, context)

    def until_noticed() -> Iterator[RecommendRequest]:
        for number in itertools.count():
            if third.is_set():
                return
            yield RecommendRequest(user_id=number)

    gateway = FakeGateway(notice)
    async with serving(gateway) as target:
        samples = await send_at_rate(target, until_noticed(), rate=20, deadline_seconds=PATIENCE_SECONDS)
    assert len(samples) == len(gateway.asked) >= 3
    assert [sample.error for sample in samples] == [""] * len(samples)


async def test_nobody_there_is_an_error_at_once() -> None:
    """A wrong address must not look like slow answers."""
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1: not connected after 0\.2 s; check"):
        await send_at_rate("127.0.0.1:1", _requests(1), rate=1, ready_seconds=0.2)


def test_percentiles_are_milliseconds_and_hold_everything() -> None:
    samples = _samples(*(number / 1_000 for number in range(101)))
    assert percentiles(samples) == {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p100": 100.0}
    assert percentiles(samples, (99.5,)) == {"p99.5": 99.5}


def test_a_stage_is_its_median_over_the_answers_that_tell() -> None:
    answered = [
        RecommendResponse(
            stages=[Stage(name="recall:vector", microseconds=time), Stage(name="rank", microseconds=10 * time)]
        )
        for time in (100, 900, 200)
    ]
    responses = [*answered, RecommendResponse(), None]
    assert stage_shares(_samples(*[0.0] * 5, responses=responses)) == {"recall:vector": 200.0, "rank": 2_000.0}
    assert stage_shares([]) == {}
