"""The moment of a request, on wall clocks before and after the bundle's cut-off: who decides it, and what follows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recsys.v1 import recommend_pb2, types_pb2
from tests.gateway.toy import CUTOFF, policy
from tests.gateway.world import World, gateway, ids, recommend, view
from tests.waiting import PATIENCE_SECONDS

WALLS = (0, 150, CUTOFF - 1, CUTOFF, CUTOFF + 1, 5_000, 2_000_000_000)
"""Before all stored events, between user 4's two, just before and after the cut-off, and long after everything."""

LATER = CUTOFF + 200
"""When user 5 viewed item 3: later than the bundle, and both before and after the moment on some wall clock."""

REQUESTS: dict[str, dict[str, Any]] = {
    "stored": {"user_id": 4},
    "stored until the cut-off": {"user_key": "ada"},
    "recorded": {"user_id": 5},
    "anonymous": {},
    "sent": {"history": types_pb2.History(item_ids=[1, 2])},
    "sent with times": {"history": types_pb2.History(item_ids=[1, 2, 5], timestamps=[100, 900, 1_500])},
}
MOMENTS = {
    "stored": CUTOFF,
    "stored until the cut-off": CUTOFF,
    "recorded": LATER,
    "anonymous": CUTOFF,
    "sent": CUTOFF,
    "sent with times": 1_500,
}
"""The later of the cut-off and the user's last event."""


async def answer_bytes(world: World, wall: int, **fields: Any) -> tuple[bytes, dict[str, bytes]]:
    """The bytes of an answer under a wall clock, and of what each process was asked for it."""
    world.clock.now = float(wall)
    response = await recommend(world, count=4, **fields)
    assert (response.degraded, len(response.items)) == (False, 4)
    asked = {name: process.requests[-1] for name, process in world.processes.items()}
    response.ClearField("request_id")
    for message in asked.values():
        message.ClearField("request_id")
        message.ClearField("timeout_microseconds")
        for query in message.queries:
            query.ClearField("request_id")
    sent = {name: request.SerializeToString(deterministic=True) for name, request in asked.items()}
    return response.SerializeToString(deterministic=True), sent


async def moment(world: World, wall: int, **fields: Any) -> int:
    """The moment that a request is answered for, the same in every process."""
    world.clock.now = float(wall)
    await recommend(world, **fields)
    (found,) = {process.requests[-1].queries[0].as_of for process in world.processes.values()}
    return int(found)


async def record_later(world: World) -> None:
    """User 5 views item 3 at `LATER`."""
    world.clock.now = float(LATER)
    events = [view("later", 3, user_key="5")]
    response = await world.stub.RecordEvents(recommend_pb2.RecordEventsRequest(events=events))
    assert response.recorded == 1


@pytest.mark.parametrize("who", REQUESTS)
async def test_the_cutoff_clock_gives_the_same_bytes_under_every_wall_clock(world: World, who: str) -> None:
    await record_later(world)
    answers = [await answer_bytes(world, wall, **REQUESTS[who]) for wall in WALLS]
    assert answers == [answers[0]] * len(WALLS)
    assert [await moment(world, wall, **REQUESTS[who]) for wall in WALLS] == [MOMENTS[who]] * len(WALLS)


@pytest.mark.parametrize("clock", ["cutoff", "wall"])
@pytest.mark.parametrize("as_of", [0, 150, CUTOFF, LATER - 1, 3_000])
async def test_a_time_that_is_sent_holds_under_every_wall_clock(tmp_path: Path, clock: Any, as_of: int) -> None:
    async with gateway(tmp_path, policy(clock=clock)) as world:
        await record_later(world)
        for fields in REQUESTS.values():
            answers = [await answer_bytes(world, wall, as_of=as_of, **fields) for wall in WALLS]
            assert answers == [answers[0]] * len(WALLS)
            assert {await moment(world, wall, as_of=as_of, **fields) for wall in WALLS} == {as_of}


@pytest.mark.parametrize("who", REQUESTS)
async def test_the_wall_clock_is_the_time_if_the_policy_says_so(tmp_path: Path, who: str) -> None:
    async with gateway(tmp_path, policy(clock="wall")) as world:
        await record_later(world)
        assert [await moment(world, wall, **REQUESTS[who]) for wall in WALLS] == list(WALLS)


async def test_under_the_wall_policy_only_what_happened_by_now_is_known(tmp_path: Path) -> None:
    """User 4 rated 1 at 100 and viewed 2 at 200; user 5 viewed 3 at 1,200. What is seen is not recommended."""
    seen_by = {0: set(), 150: {1}, CUTOFF: {1, 2}, 5_000: {1, 2}}
    async with gateway(tmp_path, policy(clock="wall")) as world:
        await record_later(world)
        for wall, seen in seen_by.items():
            world.clock.now = float(wall)
            assert {1, 2, 3} - set(ids(await recommend(world, user_id=4, count=12))) == seen
        for wall, seen in ((LATER - 1, set()), (LATER, {3})):
            world.clock.now = float(wall)
            assert {1, 2, 3} - set(ids(await recommend(world, user_id=5, count=12))) == seen


@pytest.mark.parametrize("clock", ["cutoff", "wall"])
async def test_similar_items_are_those_at_the_same_time(tmp_path: Path, clock: Any) -> None:
    moments, answers = [], []
    async with gateway(tmp_path, policy(clock=clock)) as world:
        for wall in WALLS:
            world.clock.now = float(wall)
            message = recommend_pb2.SimilarItemsRequest(item_id=1, count=3)
            response = await world.stub.SimilarItems(message, timeout=PATIENCE_SECONDS)
            response.ClearField("request_id")
            answers.append(response.SerializeToString(deterministic=True))
            moments.append(world.processes["itemcf"].requests[-1].queries[0].as_of)
    assert moments == (list(WALLS) if clock == "wall" else [CUTOFF] * len(WALLS))
    assert answers == [answers[0]] * len(WALLS), "channels of this world know no moment"
