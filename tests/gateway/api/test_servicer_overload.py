"""More requests than can be answered in time: the rest is refused at once, with a hint when to come back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from gateway.events import sqlite
from gateway.pipeline.stages import Budget
from recsys.server.callers import REQUEST_ID_KEY, RETRY_KEY
from recsys.v1 import recommend_pb2, types_pb2
from tests.gateway.toy import policy
from tests.gateway.world import gateway, recommend
from tests.waiting import soon

SLOW_SECONDS = 0.4


async def test_what_cannot_be_answered_in_time_is_refused_and_the_rest_is_whole(tmp_path: Path) -> None:
    async with gateway(tmp_path, policy(), batch_size=1, batches_in_flight=1) as world:
        world.processes["rank"].delay = SLOW_SECONDS
        await recommend(world, user_id=4)
        patient = [asyncio.create_task(recommend(world, user_id=4)) for _ in range(3)]
        await soon(lambda: len(world.processes["rank"].requests) == 2, "the first of them is ranked")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await world.stub.Recommend(recommend_pb2.RecommendRequest(user_id=4), timeout=SLOW_SECONDS)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "2 requests are waiting" in str(refused.value.details())
        trailers = refused.value.trailing_metadata()
        assert int(trailers[RETRY_KEY]) >= SLOW_SECONDS * 1e3
        assert trailers[REQUEST_ID_KEY]
        assert world.metric("recsys_requests_total", outcome="refused") == 1
        assert not any(response.degraded for response in await asyncio.gather(*patient))
        world.rollout.serving().recommend.admit(Budget.of(0.0))


async def test_what_no_caller_could_wait_for_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A batch of one takes .4 s; behind the one in progress and two that wait, an answer takes longer than any may."""
    async with gateway(tmp_path, policy(), batch_size=1, batches_in_flight=1, budget_seconds=4 * SLOW_SECONDS) as world:
        world.processes["rank"].delay = SLOW_SECONDS
        await recommend(world, user_id=4)
        three = [asyncio.create_task(recommend(world, user_id=4)) for _ in range(3)]
        await soon(lambda: len(world.processes["rank"].requests) == 2, "the first of them is ranked")
        for method, code in (
            ("Recommend", grpc.StatusCode.RESOURCE_EXHAUSTED),
            ("RecordEvents", grpc.StatusCode.INVALID_ARGUMENT),  # it is read, and is none
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await world.channel.unary_unary(f"/recsys.v1.RecommendationService/{method}")(b"no message of ours")
            assert failed.value.code() is code, method
        assert world.metric("recsys_requests_total", outcome="refused") == 1
        assert all(response.items for response in await asyncio.gather(*three))


async def test_events_that_wait_for_their_disk_take_no_place_of_recommendations(tmp_path: Path) -> None:
    events = recommend_pb2.RecordEventsRequest(
        events=[recommend_pb2.Event(event_id="a", user_id=4, item_id=1, type=types_pb2.EVENT_TYPE_VIEW)]
    )
    async with gateway(tmp_path, policy(), in_flight_limit=2) as world:
        with sqlite.turn(tmp_path / "events.sqlite"):
            waiting = [asyncio.ensure_future(world.stub.RecordEvents(events)) for _ in range(2)]
            await soon(lambda: world.metric("recsys_rpc_in_flight") == 2, "two wait for their turn")
            with pytest.raises(grpc.aio.AioRpcError, match="2 calls of RecommendationService/RecordEvents"):
                await world.stub.RecordEvents(events)
            assert not (await recommend(world, user_id=4)).degraded
        assert sorted(answer.recorded for answer in await asyncio.gather(*waiting)) == [0, 1]
