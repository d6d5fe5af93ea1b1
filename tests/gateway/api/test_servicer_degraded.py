"""The public API while parts of it are late, fail or are gone: what there is, in time, and marked as degraded."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import grpc

from recsys.v1 import recommend_pb2, types_pb2
from tests.gateway.toy import policy
from tests.gateway.world import World, gateway, ids, recommend, stages, view


async def test_a_channel_that_is_late_costs_only_itself(tmp_path: Path) -> None:
    async with gateway(tmp_path, policy(), budget_seconds=4.0) as world:
        world.processes["vector"].delay = 600.0
        response = await recommend(world, user_id=4, count=3)
        assert response.degraded
        late = stages(response)["recall:vector"]
        assert late.status == types_pb2.STAGE_STATUS_TIMEOUT
        assert late.cause
        assert ids(response) == [6, 5, 4]
        assert world.metric("recsys_degraded_total", stage="recall:vector", cause="timeout") == 1
        assert world.metric("recsys_requests_total", outcome="degraded") == 1


async def test_without_the_ranker_the_blended_order_is_served(world: World) -> None:
    world.processes["rank"].failure = grpc.StatusCode.UNAVAILABLE
    response = await recommend(world, user_id=4, count=3)
    assert response.degraded
    assert stages(response)["rank"].status == types_pb2.STAGE_STATUS_FAILED
    assert ids(response) == [6, 5, 4]


async def test_scores_of_another_version_are_not_used_and_the_stage_names_that_version(world: World) -> None:
    world.processes["rank"].version = "v0"
    response = await recommend(world, user_id=4, count=3)
    assert (response.degraded, response.bundle_version) == (True, "v1")
    refused = stages(response)["rank"]
    assert (refused.status, refused.bundle_version) == (types_pb2.STAGE_STATUS_REFUSED, "v0")
    assert refused.cause == "rank: answered with bundle v0, expected v1; restart the process"
    assert ids(response) == [6, 5, 4], "the blended order"
    assert stages(response)["recall:itemcf"].bundle_version == "v1"
    assert world.metric("recsys_degraded_total", stage="rank", cause="refused") == 1


async def test_when_everything_is_gone_the_popularity_list_is_served(world: World) -> None:
    for process in world.processes.values():
        process.failure = grpc.StatusCode.UNAVAILABLE
    response = await recommend(world, user_id=4, count=4)
    assert ids(response) == [3, 4, 5, 6]
    assert {reason.channel for item in response.items for reason in item.reasons} == {"fallback"}
    failed = {stage.name for stage in response.stages if stage.status == types_pb2.STAGE_STATUS_FAILED}
    assert failed == {"recall:popularity", "recall:itemcf", "recall:vector", "rank"}


async def test_a_caller_in_a_hurry_gets_what_there_is_in_time(tmp_path: Path) -> None:
    """Of two seconds one and a half are kept for the way back: this machine may pause."""
    async with gateway(tmp_path, policy(), deadline_margin_seconds=1.5) as world:
        for process in world.processes.values():
            process.delay = 600.0
        response = await world.stub.Recommend(recommend_pb2.RecommendRequest(user_id=4, count=2), timeout=2.0)
        assert ids(response) == [3, 4]


async def test_events_that_cannot_be_read_degrade_the_answers_of_users_who_may_have_some(world: World) -> None:
    await world.stub.RecordEvents(recommend_pb2.RecordEventsRequest(events=[view("a", 3)]))
    with closing(sqlite3.connect(world.folder / "events.sqlite")) as events:
        events.execute("ALTER TABLE events RENAME TO elsewhere")
    response = await recommend(world, user_id=4, count=1)
    assert ids(response) == [8]
    assert response.degraded
    assert "no such table" in stages(response)["history"].cause
    assert not (await recommend(world, count=1)).degraded
