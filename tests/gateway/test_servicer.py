"""The public API end to end: proto in, proto out, through the real pipeline and sources."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from recsys.v1 import recommend_pb2, types_pb2
from tests.gateway.toy import ADA, CUTOFF, KEYED_ITEM, POPULAR, policy
from tests.gateway.world import World, gateway
from tests.waiting import PATIENCE_SECONDS, soon

Recommend = recommend_pb2.RecommendRequest
Similar = recommend_pb2.SimilarItemsRequest
OK = types_pb2.STAGE_STATUS_OK


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with gateway(tmp_path, policy()) as world:
        yield world


async def recommend(world: World, **fields: Any) -> recommend_pb2.RecommendResponse:
    request = Recommend(**fields)
    response: recommend_pb2.RecommendResponse = await world.stub.Recommend(request, timeout=PATIENCE_SECONDS)
    return response


def ids(response: Any) -> list[int]:
    return [item.item_id for item in response.items]


def stages(response: Any) -> dict[str, types_pb2.Stage]:
    return {stage.name: stage for stage in response.stages}


async def test_a_warm_user_gets_ranked_unseen_items_with_reasons(world: World) -> None:
    response = await recommend(world, user_id=4, count=3, debug=True)
    assert ids(response) == [8, 7, 6]
    assert [item.score for item in response.items] == [8.0, 7.0, 6.0]
    assert [(item.item_key, item.title) for item in response.items] == [
        ("8", "Film 8"),
        ("7", "Film 7"),
        ("6", "Film 6"),
    ]
    assert (response.request_id, response.bundle_version, response.degraded) == ("answer-1", "v1", False)
    facts = [(reason.channel, reason.rank, reason.HasField("seed_item_id")) for reason in response.items[2].reasons]
    assert facts == [("itemcf", 1, True), ("vector", 2, False)]
    assert response.items[2].reasons[0].seed_item_id == 1
    assert response.items[2].reasons[0].seed_title == "Film 1"


async def test_each_reason_names_the_seed_of_its_own_channel(world: World) -> None:
    """The channel that is merged last names another seed for item 6."""
    world.processes["vector"].seed = 2
    response = await recommend(world, user_id=4, count=3)
    facts = [(reason.channel, reason.seed_item_id, reason.seed_title) for reason in response.items[2].reasons]
    assert facts == [("itemcf", 1, "Film 1"), ("vector", 2, "Film 2")]


async def test_the_stages_account_for_every_candidate(world: World) -> None:
    response = await recommend(world, user_id=4, debug=True)
    counts = [(stage.name, stage.status, stage.candidates_in, stage.candidates_out) for stage in response.stages]
    assert counts == [
        ("history", OK, 0, 0),
        ("recall:popularity", OK, 0, 3),
        ("recall:itemcf", OK, 0, 3),
        ("recall:vector", OK, 0, 3),
        ("merge", OK, 19, 10),
        ("filter", OK, 10, 10),
        ("rank", OK, 10, 10),
    ]
    assert {stage.bundle_version for stage in response.stages} == {"", "v1"}
    assert list((await recommend(world, user_id=4)).stages) == []


async def test_every_hop_is_pinned_and_gets_what_it_declared(world: World) -> None:
    await recommend(world, user_id=4)
    for process in world.processes.values():
        assert [request.bundle_version for request in process.requests] == ["v1"]
    asked = {name: process.requests[0].queries[0] for name, process in world.processes.items()}
    assert list(asked["popularity"].history.item_ids) == []
    assert list(asked["itemcf"].history.item_ids) == [1, 2]
    assert list(asked["vector"].history.item_ids) == [2]
    assert list(asked["rank"].history.item_ids) == [1, 2]
    assert {query.as_of for query in asked.values()} == {CUTOFF}
    assert list(asked["itemcf"].exclude_item_ids) == [1, 2]
    assert len({process.requests[0].request_id for process in world.processes.values()}) == 1


@pytest.mark.parametrize("who", [{"user_id": 4}, {"user_key": "4"}])
async def test_a_user_is_the_same_by_number_and_by_key(world: World, who: dict[str, Any]) -> None:
    assert not {1, 2} & set(ids(await recommend(world, count=20, **who)))


async def test_a_user_with_a_key_of_letters(world: World) -> None:
    shown = [ids(await recommend(world, count=20, **who)) for who in ({"user_key": "ada"}, {"user_id": ADA})]
    assert shown[0] == shown[1]
    assert not {1, 3} & set(shown[0])
    assert 2 in shown[0]


@pytest.mark.parametrize("who", [{}, {"user_id": 999}, {"user_key": "unheard-of"}, {"user_id": ADA + 7}])
async def test_cold_users_are_answered(world: World, who: dict[str, Any]) -> None:
    response = await recommend(world, count=12, **who)
    assert set(ids(response)) == set(POPULAR)
    assert not response.degraded


async def test_a_sent_history_replaces_the_stored_one_for_taste_and_for_the_seen_filter(world: World) -> None:
    sent = types_pb2.History(item_ids=[6, 8, 8, 777], timestamps=[50, 60, 40, 50])
    response = await recommend(world, user_id=4, count=12, history=sent)
    assert sorted(ids(response)) == sorted(set(POPULAR) - {6, 8})
    query = world.processes["itemcf"].requests[0].queries[0]
    assert list(query.history.item_ids) == [6, 777, 8]


async def test_an_empty_history_is_not_an_absent_one(world: World) -> None:
    response = await recommend(world, user_id=4, count=12, history=types_pb2.History())
    assert set(ids(response)) == set(POPULAR)
    assert not {1, 2} & set(ids(await recommend(world, user_id=4, count=12)))


async def test_events_after_as_of_do_not_exist_yet(world: World) -> None:
    response = await recommend(world, user_id=4, count=12, as_of=150)
    assert 2 in ids(response)
    assert 1 not in ids(response)
    assert world.processes["rank"].requests[0].queries[0].as_of == 150


async def test_exclusions_and_filters_hold_whatever_the_channels_say(world: World) -> None:
    wanted = types_pb2.ItemFilter(genres_any=["Drama"], max_year=1997)
    response = await recommend(world, count=12, filter=wanted, exclude_item_ids=[3, 3, 12345, -1])
    assert sorted(ids(response)) == [1, 5, 7]
    query = world.processes["itemcf"].requests[0].queries[0]
    assert (list(query.filter.genres_any), query.filter.max_year) == (["Drama"], 1997)
    assert list(query.exclude_item_ids) == [-1, 3, 12345]


async def test_one_request_under_two_wall_clocks_gets_the_same_bytes(tmp_path: Path) -> None:
    for number, (clock, as_of) in enumerate((("cutoff", None), ("cutoff", 950), ("wall", 950))):
        answers = []
        folder = tmp_path / str(number)
        folder.mkdir()
        async with gateway(folder, policy(clock=clock)) as world:  # type: ignore[arg-type]
            for now in (5_000.0, 2e9):
                world.clock.now = now
                response = await recommend(world, user_id=4, as_of=as_of)
                response.ClearField("request_id")
                answers.append(response.SerializeToString(deterministic=True))
            asked = [request.queries[0].as_of for request in world.processes["rank"].requests]
        assert answers[0] == answers[1]
        assert asked == [as_of or CUTOFF] * 2


async def test_the_wall_clock_decides_where_the_policy_says_so(tmp_path: Path) -> None:
    async with gateway(tmp_path, policy(clock="wall")) as world:
        await recommend(world, user_id=4)
        assert world.processes["rank"].requests[0].queries[0].as_of == 5_000


BAD = [
    ({"count": 501}, "count: 501"),
    ({"user_id": -1}, "user_id: -1"),
    ({"user_key": ""}, "user_key: a key of 0 bytes"),
    ({"user_key": "k" * 257}, "user_key: a key of 257 bytes"),
    ({"as_of": -1}, "as_of: -1"),
    ({"exclude_item_ids": range(10_001)}, "exclude_item_ids: 10001"),
    ({"history": types_pb2.History(item_ids=range(2_001))}, "history.item_ids: 2001 events"),
    ({"history": types_pb2.History(item_ids=[1, 2], timestamps=[1])}, "history.timestamps: 1 entries for 2"),
    ({"history": types_pb2.History(item_ids=[1], timestamps=[-1])}, r"history.timestamps\[0\]: -1"),
    ({"history": types_pb2.History(item_ids=[1], values=[float("inf")])}, r"history.values\[0\]: inf"),
    ({"history": types_pb2.History(item_ids=[1], types=[42])}, r"history.types\[0\]: 42"),  # type: ignore[list-item]
    ({"filter": types_pb2.ItemFilter(genres_any=["Opera"])}, "filter.genres_any: unknown genre 'Opera'"),
    ({"filter": types_pb2.ItemFilter(genres_none=["Opera"])}, "filter.genres_none: unknown genre 'Opera'"),
    ({"filter": types_pb2.ItemFilter(min_year=2, max_year=1)}, "filter.min_year: 2 is after"),
    ({"preferred_genres": ["Opera"]}, "preferred_genres: unknown genre 'Opera'"),
]


@pytest.mark.parametrize(("fields", "complaint"), BAD, ids=[complaint for _, complaint in BAD])
async def test_bad_input_is_refused_by_the_name_of_its_field(
    world: World, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=complaint) as caught:
        await recommend(world, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert world.metric("recsys_requests_total", outcome="invalid") == 1
    assert not any(process.requests for process in world.processes.values())


async def test_an_oversized_message_is_refused_with_both_sizes(world: World) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await recommend(world, user_key="k" * (5 << 20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(4 << 20) in (caught.value.details() or "")


async def test_a_nan_value_in_a_history_is_an_absent_one(world: World) -> None:
    sent = types_pb2.History(item_ids=[1], values=[float("nan")])
    assert not (await recommend(world, history=sent)).degraded


async def test_a_channel_that_is_late_costs_only_itself(tmp_path: Path) -> None:
    async with gateway(tmp_path, policy(), budget_seconds=4.0) as world:
        world.processes["vector"].delay = 600.0
        response = await recommend(world, user_id=4, count=3)
        assert response.degraded
        late = stages(response)["recall:vector"]
        assert late.status == types_pb2.STAGE_STATUS_TIMEOUT
        assert "vector: DEADLINE_EXCEEDED" in late.cause
        assert ids(response) == [6, 5, 4]
        assert world.metric("recsys_degraded_total", stage="recall:vector", cause="timeout") == 1
        assert world.metric("recsys_requests_total", outcome="degraded") == 1


async def test_without_the_ranker_the_blended_order_is_served(world: World) -> None:
    world.processes["rank"].failure = grpc.StatusCode.UNAVAILABLE
    response = await recommend(world, user_id=4, count=3)
    assert response.degraded
    assert stages(response)["rank"].status == types_pb2.STAGE_STATUS_FAILED
    assert ids(response) == [6, 5, 4]


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
        response = await world.stub.Recommend(Recommend(user_id=4, count=2), timeout=2.0)
        assert ids(response) == [3, 4]


async def test_hidden_items_are_cut_in_every_path(world: World) -> None:
    world.hide("8\ntt12\n3\n")
    assert not {8, KEYED_ITEM, 3} & set(ids(await recommend(world, user_id=4, count=12)))
    similar = await world.stub.SimilarItems(Similar(item_id=1, count=12))
    assert not {8, KEYED_ITEM, 3} & set(ids(similar))
    for process in world.processes.values():
        process.failure = grpc.StatusCode.UNAVAILABLE
    assert ids(await recommend(world, user_id=4, count=12)) == [4, 5, 6, 7, 9, 10, 11]
    world.hide("")
    assert 3 in ids(await recommend(world, user_id=4, count=12))


async def test_similar_items_are_blended_and_never_the_item_itself(world: World) -> None:
    response = await world.stub.SimilarItems(Similar(item_key="6", count=3))
    assert ids(response) == [5, 7, 4]
    assert world.processes["popularity"].requests == []
    assert world.processes["rank"].requests == []
    assert (response.degraded, response.request_id, response.bundle_version) == (False, "answer-1", "v1")
    query = world.processes["itemcf"].requests[0].queries[0]
    assert (list(query.history.item_ids), query.as_of) == ([6], CUTOFF)


@pytest.mark.parametrize(
    ("fields", "code", "complaint"),
    [
        ({"item_id": 999}, grpc.StatusCode.NOT_FOUND, "item 999: bundle v1 does not know it"),
        ({"item_key": "tt99"}, grpc.StatusCode.NOT_FOUND, "item 'tt99'"),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "item: neither item_id nor item_key"),
        ({"item_id": -2}, grpc.StatusCode.INVALID_ARGUMENT, "item_id: -2"),
        ({"item_id": 1, "count": 501}, grpc.StatusCode.INVALID_ARGUMENT, "count: 501"),
    ],
)
async def test_bad_items_are_refused(
    world: World, fields: dict[str, Any], code: grpc.StatusCode, complaint: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=complaint) as caught:
        await world.stub.SimilarItems(Similar(**fields))
    assert caught.value.code() is code


def view(event_id: str, item_id: int, **fields: Any) -> recommend_pb2.Event:
    who = {} if "user_key" in fields else {"user_id": 4}
    return recommend_pb2.Event(event_id=event_id, item_id=item_id, type=types_pb2.EVENT_TYPE_VIEW, **who, **fields)


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
    world.publish("v1", policy(), watermarks={world.recorder.log: 2})
    world.versions.current, current = None, world.versions.current
    assert current is not None
    assert ids(await recommend(world, user_id=4, count=2)) == [8, 6]
    for process in world.processes.values():
        process.ready = ["v2"]
    for backend in world.backends:
        await backend.probe()
    world.publish("v2", policy(), watermarks={world.recorder.log: 2})
    assert ids(await recommend(world, user_id=4, count=2)) == [8, 7]


async def test_a_bundle_with_the_events_of_another_log_hides_none_of_this_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A recreated events file, or that of a second gateway: its rows are numbered from 1 again."""
    world.publish("v1", policy(), watermarks={"0" * 32: 900})
    assert [f"none of log {world.recorder.log} in" in record.message for record in caplog.records] == [True]
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


async def test_events_that_cannot_be_read_degrade_the_answer_and_say_so(world: World) -> None:
    world.recorder._reader.execute("PRAGMA query_only=0")
    world.recorder._writer.execute("ALTER TABLE events RENAME TO elsewhere")
    response = await recommend(world, user_id=4, count=1)
    assert ids(response) == [8]
    assert response.degraded
    assert "no such table" in stages(response)["history"].cause


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


async def test_without_a_bundle_requests_are_refused_and_events_are_kept(tmp_path: Path) -> None:
    async with gateway(tmp_path) as world:
        with pytest.raises(grpc.aio.AioRpcError, match="the toy gateway has no bundle") as caught:
            await recommend(world, user_id=4)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
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


async def test_every_answer_is_logged_as_it_was_given(world: World) -> None:
    shown = await recommend(world, user_id=4, count=2)
    await world.stub.SimilarItems(Similar(item_id=6, count=1))
    world.answers.close()
    connection = sqlite3.connect(world.folder / "answers.sqlite")
    rows = connection.execute("SELECT request_id, method, user_key, policy, items FROM answers").fetchall()
    connection.close()
    world.answers = type(world.answers)(world.folder / "again.sqlite", dropped=lambda n: None)
    assert [row[:4] for row in rows] == [
        (shown.request_id, "Recommend", "4", "ranked"),
        ("answer-2", "SimilarItems", "", "blended"),
    ]
    assert [item["item_id"] for item in json.loads(rows[0][4])] == ids(shown)
