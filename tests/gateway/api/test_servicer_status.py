"""Which version the public API answers from, what it does without one, and what it says of itself, end to end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from recsys.v1 import recommend_pb2, types_pb2
from tests.gateway.toy import policy
from tests.gateway.world import World, gateway, recommend, stages, view
from tests.waiting import soon


async def test_a_request_keeps_its_version_through_every_hop_while_a_new_one_is_released(world: World) -> None:
    for process in world.processes.values():
        process.ready = ["v2", "v1"]
        process.delay = 0.2
    for backend in world.backends:
        await backend.probe()
    under_way = asyncio.create_task(recommend(world, user_id=4))
    await soon(lambda: bool(world.processes["vector"].requests), "vector is asked")
    world.publish("v2", policy())
    later = await recommend(world, user_id=4)
    earlier = await under_way
    assert [(r.bundle_version, r.degraded) for r in (earlier, later)] == [("v1", False), ("v2", False)]
    for process in world.processes.values():
        assert [request.bundle_version for request in process.requests] == ["v1", "v2"]


async def test_while_a_new_version_is_released_the_stages_name_the_versions_that_answered(world: World) -> None:
    """Of the requests under way, on either version, the ranker answers all with one: as if it ignored the pin."""
    hops = ["recall:popularity", "recall:itemcf", "recall:vector", "rank"]
    ranker = world.processes["rank"]
    for process in world.processes.values():
        process.ready = ["v2", "v1"]
    for backend in world.backends:
        await backend.probe()
    for answering in ("", "v2"):
        ranker.version, ranker.delay, ranker.requests = answering, 0.5, []
        world.publish("v1", policy())
        earlier = [asyncio.create_task(recommend(world, user_id=4, debug=True)) for _ in range(3)]
        await soon(lambda: sum(len(asked.queries) for asked in ranker.requests) == 3, "the ranker is asked for v1")
        world.publish("v2", policy())
        later = [asyncio.create_task(recommend(world, user_id=4, debug=True)) for _ in range(3)]
        for asked, tasks in (("v1", earlier), ("v2", later)):
            for response in await asyncio.gather(*tasks):
                answered = answering or asked
                assert response.bundle_version == asked
                assert [stages(response)[hop].bundle_version for hop in hops] == [asked, asked, asked, answered]
                expected = types_pb2.STAGE_STATUS_OK if answered == asked else types_pb2.STAGE_STATUS_REFUSED
                assert stages(response)["rank"].status == expected
                assert response.degraded == (answered != asked)


async def test_without_a_bundle_requests_are_refused_and_events_are_kept(tmp_path: Path) -> None:
    async with gateway(tmp_path) as world:
        with pytest.raises(grpc.aio.AioRpcError, match="the toy gateway has no bundle") as caught:
            await recommend(world, user_id=4)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        response = await world.stub.RecordEvents(recommend_pb2.RecordEventsRequest(events=[view("a", 8)]))
        assert response.recorded == 1
        status = await world.stub.Status(recommend_pb2.StatusRequest())
        assert status.gateway.active_version == ""


async def test_status_tells_the_gateway_and_its_backends_in_a_fixed_order(world: World) -> None:
    world.processes["vector"].ready = []
    world.processes["vector"].refused = {"v1": "a flipped bit"}
    for backend in world.backends:
        await backend.probe()
    status = await world.stub.Status(recommend_pb2.StatusRequest())
    assert (status.gateway.role, status.gateway.active_version) == ("gateway", "v1")
    assert [backend.name for backend in status.backends] == ["popularity", "itemcf", "vector", "rank"]
    assert [backend.cause for backend in status.backends] == ["", "", "a flipped bit", ""]
    assert all(backend.reachable for backend in status.backends)
    assert list(status.backends[1].status.ready_versions) == ["v1"]
