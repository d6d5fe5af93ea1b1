"""Several processes of one role: all get their share, and one that is lost costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest

from gateway.backends.backends import RecallBackend
from gateway.backends.sources import GrpcRecallSource
from gateway.backends.workers import Workers
from gateway.config import GatewayConfig, split_targets
from gateway.pipeline.stages import Status
from recsys.domain import History, RecallQuery
from recsys.server.telemetry import Telemetry
from tests.gateway.toy import FakeProcess, running

QUERY = RecallQuery(History.of([1], [10]), 100, 5)
CONFIG = GatewayConfig(breaker_failures=3, probe_timeout_seconds=60.0)
LONG = 60.0
CALLS = 30


class Group:
    """Processes of one channel, and the source that asks them."""

    def __init__(self, n: int) -> None:
        self.processes = [FakeProcess("itemcf", item_ids=[5, 3]) for _ in range(n)]

    async def start(self, stack: AsyncExitStack) -> None:
        for process in self.processes:
            await stack.enter_async_context(running(process))
        self.workers = Workers([RecallBackend("itemcf", process.target, CONFIG) for process in self.processes])
        for backend in self.workers.members:
            stack.push_async_callback(backend.close)
            await backend.probe()
        self.source = GrpcRecallSource(self.workers, "v1", Telemetry.create())

    async def ask(self) -> Status:
        (outcome,) = await self.source.recall([QUERY], LONG)
        return outcome.status

    @property
    def calls(self) -> list[int]:
        """How many each process has had."""
        return [len(process.requests) for process in self.processes]


@pytest.fixture
async def pair() -> AsyncIterator[Group]:
    async with AsyncExitStack() as stack:
        pair = Group(2)
        await pair.start(stack)
        yield pair


async def test_calls_one_after_the_other_take_turns(pair: Group) -> None:
    assert [await pair.ask() for _ in range(CALLS)] == [Status.OK] * CALLS
    assert pair.calls == [CALLS // 2, CALLS // 2]


async def test_calls_at_once_go_where_fewest_wait(pair: Group) -> None:
    """The first process answers none of the first half: what comes later goes to the other."""
    pair.processes[0].delay = LONG
    waiting = [asyncio.create_task(pair.ask()) for _ in range(2)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    async with asyncio.timeout(LONG / 2):
        for _ in range(CALLS):
            await pair.ask()
    assert pair.calls == [1, CALLS + 1]
    for task in waiting:
        task.cancel()


@pytest.mark.parametrize("calls", [1, CALLS])
async def test_one_that_cannot_be_reached_costs_no_answer(pair: Group, calls: int) -> None:
    pair.processes[1].failure = grpc.StatusCode.UNAVAILABLE
    assert [await pair.ask() for _ in range(calls)] == [Status.OK] * calls
    assert pair.calls == [calls, min(calls, CONFIG.breaker_failures)]


async def test_if_none_can_be_reached_the_channel_has_failed(pair: Group) -> None:
    for process in pair.processes:
        process.failure = grpc.StatusCode.UNAVAILABLE
    outcomes = [await pair.ask() for _ in range(CALLS)]
    assert outcomes[0] is Status.FAILED
    assert outcomes[-1] is Status.SKIPPED
    assert pair.calls == [CONFIG.breaker_failures] * 2


async def test_one_that_has_not_loaded_the_version_is_left_alone(pair: Group) -> None:
    pair.processes[0].ready = ["v0"]
    await pair.workers.members[0].probe()
    assert [await pair.ask() for _ in range(CALLS)] == [Status.OK] * CALLS
    assert pair.calls == [0, CALLS]


async def test_those_that_are_skipped_are_chosen_last() -> None:
    async with AsyncExitStack() as stack:
        group = Group(3)
        await group.start(stack)
        for backend in group.workers.members[:2]:
            for _ in range(CONFIG.breaker_failures):
                backend.breaker.failed("as the test wants it")
        assert [await group.ask() for _ in range(CALLS)] == [Status.OK] * CALLS
        assert group.calls == [0, 0, CALLS]


async def test_a_process_that_comes_back_gets_its_share_again(pair: Group) -> None:
    pair.processes[0].failure = grpc.StatusCode.UNAVAILABLE
    for _ in range(CALLS):
        await pair.ask()
    pair.processes[0].failure = None
    await pair.workers.members[0].probe()
    before = pair.calls
    for _ in range(CALLS):
        await pair.ask()
    assert [after - earlier for earlier, after in zip(before, pair.calls, strict=True)] == [CALLS // 2, CALLS // 2]


def test_targets_of_several_processes_are_joined_by_plus() -> None:
    config = GatewayConfig(rank="a:1+b:2", recall={"itemcf": "c:3"})
    assert split_targets(config.rank) == ["a:1", "b:2"]
    assert split_targets(config.recall["itemcf"]) == ["c:3"]


@pytest.mark.parametrize("targets", ["a:1+", "+a:1", "a:1+b", "a:1 +b:2", "a"])
def test_targets_that_are_none_are_refused(targets: str) -> None:
    with pytest.raises(ValueError, match="rank"):
        GatewayConfig(rank=targets)
