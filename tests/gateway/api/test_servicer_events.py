"""Events sent to the public API: what they change in the answers that follow, end to end."""

from __future__ import annotations

import grpc
import pytest

from recsys.v1 import recommend_pb2, types_pb2
from tests.gateway.toy import policy
from tests.gateway.world import World, ids, recommend, view


async def test_recorded_events_count_from_the_next_request_on(world: World) -> None:
    assert ids(await recommend(world, user_id=4, count=1)) == [8]
    sent = recommend_pb2.RecordEventsRequest(events=[view("a", 8), view("a", 8), view("b", 999)])
    response = await world.stub.RecordEvents(sent)
    assert (response.recorded, response.duplicates) == (2, 1)
    assert ids(await recommend(world, user_key="4", count=1)) == [7]
    query = world.processes["itemcf"].requests[-1].queries[0]
    assert list(query.history.item_ids) == [1, 2, 8]
    assert query.as_of == 5_000


async def test_events_of_another_user_change_nothing_and_events_before_the_watermark_count_once(world: World) -> None:
    await world.stub.RecordEvents(recommend_pb2.RecordEventsRequest(events=[view("a", 8, user_key="5"), view("b", 7)]))
    assert ids(await recommend(world, user_id=4, count=1)) == [8]
    world.publish("v1", policy(), watermarks={world.recorder.log_id: 2})
    world.versions.current, current = None, world.versions.current
    assert current is not None
    assert ids(await recommend(world, user_id=4, count=2)) == [8, 6]
    for process in world.processes.values():
        process.ready = ["v2"]
    for backend in world.backends:
        await backend.probe()
    world.publish("v2", policy(), watermarks={world.recorder.log_id: 2})
    assert ids(await recommend(world, user_id=4, count=2)) == [8, 7]


async def test_a_bundle_with_the_events_of_another_log_hides_none_of_this_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A recreated events file, or that of a second gateway: its rows are numbered from 1 again."""
    world.publish("v1", policy(), watermarks={"0" * 32: 900})
    assert [f"none of log {world.recorder.log_id} in" in record.message for record in caplog.records] == [True]
    assert ids(await recommend(world, user_id=4, count=1)) == [8]
    await world.stub.RecordEvents(recommend_pb2.RecordEventsRequest(events=[view("a", 8)]))
    assert ids(await recommend(world, user_id=4, count=1)) == [7]
    assert list(world.processes["itemcf"].requests[-1].queries[0].history.item_ids) == [1, 2, 8]
    assert len(caplog.records) == 1, "said once per bundle, not per request"


async def test_a_disliked_item_goes_away_and_an_impression_does_nothing(world: World) -> None:
    disliked = recommend_pb2.Event(event_id="a", user_id=4, item_id=8, type=types_pb2.EVENT_TYPE_DISLIKE)
    shown = recommend_pb2.Event(event_id="b", user_id=4, item_id=7, type=types_pb2.EVENT_TYPE_IMPRESSION)
    await world.stub.RecordEvents(recommend_pb2.RecordEventsRequest(events=[disliked, shown]))
    assert ids(await recommend(world, user_id=4, count=2)) == [7, 6]
    assert list(world.processes["itemcf"].requests[-1].queries[0].history.item_ids) == [1, 2]


async def test_a_bad_event_refuses_the_whole_request(world: World) -> None:
    sent = recommend_pb2.RecordEventsRequest(events=[view("a", 8), recommend_pb2.Event(event_id="b")])
    with pytest.raises(grpc.aio.AioRpcError, match=r"events\[1\]\.user: neither") as caught:
        await world.stub.RecordEvents(sent)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ids(await recommend(world, user_id=4, count=1)) == [8]
    empty = await world.stub.RecordEvents(recommend_pb2.RecordEventsRequest())
    assert (empty.recorded, empty.duplicates) == (0, 0)
