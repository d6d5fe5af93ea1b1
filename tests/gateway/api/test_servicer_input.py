"""Bad input to the public API end to end: refused by the name of its field before any other process is asked."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest

from recsys.v1 import types_pb2
from tests.gateway.world import World, ids, recommend

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
    ({"history": types_pb2.History(packed_item_ids=bytes(8 * 2_001))}, "history.item_ids: 2001 events"),
    ({"history": types_pb2.History(packed_item_ids=bytes(9))}, "history.packed_item_ids: 9 bytes"),
    ({"history": types_pb2.History(packed_item_ids=bytes(8), packed_types=b"*")}, r"history.types\[0\]: 42"),
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


async def test_a_client_may_send_a_history_in_either_form(world: World) -> None:
    """The same answer, but for its id."""
    repeated = types_pb2.History(item_ids=[6, 8, 1], timestamps=[50, 60, 70], types=[1, 5, 6], values=[4.0, 1.0, 1.0])  # type: ignore[list-item]
    packed = types_pb2.History(
        packed_item_ids=np.asarray([6, 8, 1], "<i8").tobytes(),
        packed_timestamps=np.asarray([50, 60, 70], "<i8").tobytes(),
        packed_types=bytes([1, 5, 6]),
        packed_values=np.asarray([4, 1, 1], "<f4").tobytes(),
    )
    answers = [await recommend(world, count=12, history=history) for history in (repeated, packed)]
    for answer in answers:
        assert not {6, 8} & set(ids(answer))
        answer.ClearField("request_id")
    assert answers[0] == answers[1]


async def test_the_two_forms_of_one_list_are_refused(world: World) -> None:
    both = types_pb2.History(item_ids=[6], packed_item_ids=bytes(8))
    with pytest.raises(grpc.aio.AioRpcError, match=r"history\.packed_item_ids: sent together with item_ids") as caught:
        await recommend(world, history=both)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
