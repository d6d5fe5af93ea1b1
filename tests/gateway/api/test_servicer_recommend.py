"""Recommendations of the public API end to end: proto in, proto out, through the real pipeline and sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
import pytest

from recall_server.channels.popularity import PopularityChannel, PopularityScores
from recsys.v1 import recommend_pb2, types_pb2
from tests.gateway.toy import ADA, CUTOFF, ITEM_IDS, KEYED_ITEM, POPULAR, catalogue, policy
from tests.gateway.world import World, gateway, ids, recommend

OK = types_pb2.STAGE_STATUS_OK


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


def popularity_channel() -> PopularityChannel:
    """The real one; its scores are in the order of `POPULAR`."""
    scores = np.asarray([1 - POPULAR.index(item_id) / 20 for item_id in ITEM_IDS], np.float32)
    return PopularityChannel(catalogue(), PopularityScores.of(scores, catalogue()))


@pytest.mark.parametrize(
    ("preferred", "expected"),
    [
        ([], [3, 1, 2, 4, 5, 6, 7, 8]),
        (["Western"], [2, 4, 6, 8, 10, KEYED_ITEM, 3, 1]),
        (["Drama"], [3, 1, 5, 7, 9, 11, 2, 4]),
        (["Western", "Drama"], [2, 3, 1, 4, 6, 5, 8, 7]),
    ],
    ids=["none", "a genre", "another genre", "both"],
)
async def test_genres_that_a_cold_user_prefers_come_first(
    tmp_path: Path, preferred: list[str], expected: list[int]
) -> None:
    """The other channels know nothing of an unknown user."""
    async with gateway(tmp_path, policy(ranking="blended")) as world:
        world.processes["popularity"].real = popularity_channel()
        world.processes["itemcf"].item_ids = world.processes["vector"].item_ids = ()
        response = await recommend(world, count=8, preferred_genres=preferred)
    assert ids(response) == expected
    assert {reason.channel for item in response.items for reason in item.reasons} == {"popularity"}
    assert not response.degraded


@pytest.mark.parametrize("ranking", ["ranked", "blended"])
async def test_genres_that_a_new_user_names_come_first_whatever_was_learned(
    tmp_path: Path, ranking: Literal["ranked", "blended"]
) -> None:
    """Even items are westerns. The order within them, and behind them, is the one that is served without."""
    async with gateway(tmp_path, policy(ranking=ranking)) as world:
        everything = ids(await recommend(world, count=12))
        named = await recommend(world, count=12, preferred_genres=["Western"])
        assert ids(named) == sorted(everything, key=lambda item_id: item_id % 2 == 1 and item_id != KEYED_ITEM)
        assert ids(named) != everything
        scores = [item.score for item in named.items]
        assert scores == sorted(scores, reverse=True)
        assert ids(await recommend(world, count=12, preferred_genres=["Western", "Drama"])) == everything
        known = ids(await recommend(world, user_id=4, count=12))
        assert ids(await recommend(world, user_id=4, count=12, preferred_genres=["Western"])) == known


async def test_channels_and_ranker_get_the_preferred_genres(world: World) -> None:
    await recommend(world, preferred_genres=["Western"])
    for process in world.processes.values():
        assert [list(query.preferred_genres) for query in process.requests[0].queries] == [["Western"]]


async def test_hidden_items_are_cut_in_every_path(world: World) -> None:
    world.hide("8\ntt12\n3\n")
    assert not {8, KEYED_ITEM, 3} & set(ids(await recommend(world, user_id=4, count=12)))
    similar = await world.stub.SimilarItems(recommend_pb2.SimilarItemsRequest(item_id=1, count=12))
    assert not {8, KEYED_ITEM, 3} & set(ids(similar))
    for process in world.processes.values():
        process.failure = grpc.StatusCode.UNAVAILABLE
    assert ids(await recommend(world, user_id=4, count=12)) == [4, 5, 6, 7, 9, 10, 11]
    world.hide("")
    assert 3 in ids(await recommend(world, user_id=4, count=12))
