"""Similar items of the public API, end to end."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from recsys.v1 import recommend_pb2
from tests.gateway.toy import CUTOFF
from tests.gateway.world import World, ids

Similar = recommend_pb2.SimilarItemsRequest


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
