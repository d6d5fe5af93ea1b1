"""Processes of two versions at the same time: who gets packed lists, and that answers are the same either way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest

from gateway.backends.backends import RankBackend, RecallBackend
from gateway.backends.sources import GrpcRankSource, GrpcRecallSource
from gateway.backends.workers import Workers
from gateway.config import GatewayConfig
from gateway.pipeline.merge import merge
from gateway.pipeline.stages import Outcome, Status
from recsys.domain import History, RankQuery, RecallQuery, RecallResult
from recsys.server.telemetry import Telemetry
from recsys.v1 import types_pb2
from tests.gateway.toy import FakeProcess, running
from tests.gateway.world import World, recommend
from tests.waiting import PATIENCE_SECONDS

CONFIG = GatewayConfig(probe_timeout_seconds=PATIENCE_SECONDS)
SEEN = np.asarray([4, 5], np.int64)
QUERY = RecallQuery(
    History.of([4, 5], [10, 20]), 100, 3, SEEN, request_id="answer-7", exclude_besides_history=np.empty(0, np.int64)
)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def recall_from(stack: AsyncExitStack, process: FakeProcess) -> tuple[RecallBackend, GrpcRecallSource]:
    await stack.enter_async_context(running(process))
    backend = RecallBackend("itemcf", process.target, CONFIG)
    stack.push_async_callback(backend.close)
    return backend, GrpcRecallSource(Workers([backend]), "v1", Telemetry.create())


async def asked(source: GrpcRecallSource) -> list[int]:
    """The items of an answer that must be a good one."""
    (outcome,) = await source.recall([QUERY], PATIENCE_SECONDS)
    assert (outcome.status, outcome.cause) == (Status.OK, "")
    assert outcome.result is not None
    items: list[int] = outcome.result.item_ids.tolist()
    return items


def form(request: Any) -> str:
    """Which lists a recall request fills in; never both."""
    (query,) = request.queries
    repeated = (list(query.history.item_ids), list(query.exclude_item_ids))
    packed = (query.history.packed_item_ids, request.packed_results, query.exclude_seen)
    assert any(repeated) != any(packed)
    return "packed" if any(packed) else "repeated"


async def test_packed_lists_are_sent_once_a_probe_has_found_that_they_are_read(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5, 6, 4, 7], seed=4)
    backend, source = await recall_from(stack, process)
    assert await asked(source) == [6, 7]
    await backend.probe()
    assert await asked(source) == [6, 7]
    assert [form(request) for request in process.requests] == ["repeated", "packed"]
    assert process.requests[1].timeout_microseconds == pytest.approx(PATIENCE_SECONDS * 1e6, rel=0.5)
    assert process.requests[1].queries[0].request_id == "answer-7"
    assert process.requests[1].queries[0].packed_exclude_item_ids == b""


async def test_an_older_process_gets_repeated_lists(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5, 6, 4, 7], older=True)
    backend, source = await recall_from(stack, process)
    await backend.probe()
    assert backend.reachable
    assert await asked(source) == [6, 7]
    assert [form(request) for request in process.requests] == ["repeated"]


async def test_a_process_that_an_older_one_replaces_is_asked_again_and_then_known(stack: AsyncExitStack) -> None:
    """Between two probes: the first answer, to a query of which nothing was read, is not believed."""
    process = FakeProcess("itemcf", item_ids=[5, 6, 4, 7])
    backend, source = await recall_from(stack, process)
    await backend.probe()
    assert await asked(source) == [6, 7]
    process.older = True
    process.requests.clear()
    assert await asked(source) == [6, 7]
    assert [len(request.queries[0].history.item_ids) for request in process.requests] == [0, 2]
    assert await asked(source) == [6, 7]
    assert [form(request) for request in process.requests[1:]] == ["repeated", "repeated"]
    assert not backend.reads_packed
    await backend.probe()
    assert not backend.reads_packed
    process.older = False
    await backend.probe()
    assert await asked(source) == [6, 7]
    assert form(process.requests[-1]) == "packed"


async def test_a_probe_that_finds_an_older_process_goes_back_to_repeated_lists(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5, 6, 4, 7])
    backend, source = await recall_from(stack, process)
    await backend.probe()
    process.older = True
    await backend.probe()
    assert await asked(source) == [6, 7]
    assert [form(request) for request in process.requests] == ["repeated"]


async def test_an_older_process_without_results_is_not_believed_either(stack: AsyncExitStack) -> None:
    """Without any list in the answer nothing but `packed` tells who wrote it."""
    process = FakeProcess("itemcf", item_ids=[])
    backend, source = await recall_from(stack, process)
    await backend.probe()
    process.older = True
    assert await asked(source) == []
    assert len(process.requests) == 2


async def test_asking_again_stays_within_the_time_of_the_first_call(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5], delay=0.6)
    backend, source = await recall_from(stack, process)
    await backend.probe()
    process.older = True
    (outcome,) = await source.recall([QUERY], 1.0)
    assert outcome.status is Status.TIMEOUT


async def score(backend: RankBackend) -> Outcome[Any]:
    result = RecallResult(np.asarray([5, 3], np.int64), np.asarray([1.0, 0.5], np.float32))
    query = RankQuery(History.of([4], [10]), 100, merge({"itemcf": result}), request_id="answer-7")
    (outcome,) = await GrpcRankSource(Workers([backend]), "v1", Telemetry.create()).rank([query], PATIENCE_SECONDS)
    return outcome


async def test_the_ranker_is_treated_likewise(stack: AsyncExitStack) -> None:
    process = FakeProcess("rank")
    await stack.enter_async_context(running(process))
    backend = RankBackend("rank", process.target, CONFIG)
    stack.push_async_callback(backend.close)
    await backend.probe()
    outcomes = [await score(backend)]
    process.older = True
    outcomes.append(await score(backend))
    for outcome in outcomes:
        assert (outcome.status, outcome.cause) == (Status.OK, "")
        assert outcome.result is not None
        assert outcome.result.tolist() == [3.0, 5.0]
    forms = [(query.packed_item_ids != b"", list(query.item_ids)) for (query,) in (r.queries for r in process.requests)]
    assert forms == [(True, []), (False, []), (False, [3, 5])]
    assert process.requests[0].queries[0].request_id == "answer-7"


REQUESTS: list[dict[str, Any]] = [
    {"user_id": 4, "debug": True},
    {"user_key": "ada", "count": 12},
    {"count": 3, "exclude_item_ids": [6, 7]},
    {"history": types_pb2.History(item_ids=[6, 8], timestamps=[50, 60], types=[1, 5])},
    {"user_id": 4, "filter": types_pb2.ItemFilter(genres_any=["Drama"])},
]


async def answers(world: World) -> list[bytes]:
    found = []
    for fields in REQUESTS:
        response = await recommend(world, **fields)
        assert not response.degraded
        response.ClearField("request_id")
        for stage in response.stages:
            stage.ClearField("microseconds")
        found.append(response.SerializeToString(deterministic=True))
    return found


async def test_answers_are_the_same_whatever_the_other_processes_read(world: World) -> None:
    """Before any probe; all new; one older at a time; replaced between probes; all older."""
    names, expected = set(world.processes), await answers(world)
    assert not any(backend.reads_packed for backend in world.backends)
    for older in (set(), *({name} for name in names), names):
        for name, process in world.processes.items():
            process.older = name in older
        assert await answers(world) == expected, "between two probes"
        for backend in world.backends:
            await backend.probe()
        assert {backend.name for backend in world.backends if backend.reads_packed} == names - older
        assert await answers(world) == expected
