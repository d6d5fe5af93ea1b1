"""Sources over gRPC: what a late, absent, wrong or broken process becomes, and that it costs only itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from gateway.backends.backends import RankBackend, RecallBackend
from gateway.backends.sources import GrpcRankSource, GrpcRecallSource
from gateway.backends.workers import Workers
from gateway.config import GatewayConfig
from gateway.pipeline.merge import merge
from gateway.pipeline.stages import Outcome, Status
from recsys.domain import History, RankQuery, RecallQuery, RecallResult
from recsys.errors import DeadlinePassed
from recsys.server.telemetry import Telemetry
from tests.gateway.toy import FakeProcess, running
from tests.waiting import PATIENCE_SECONDS

QUERY = RecallQuery(History.of([1], [10]), 100, 5)
CONFIG = GatewayConfig(breaker_failures=2, min_counted_timeout_seconds=0.02, probe_timeout_seconds=60.0)
LONG = 60.0
"""Time for a call that is not about time: this machine may pause."""


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def channel(
    stack: AsyncExitStack, process: FakeProcess, *, name: str = "itemcf"
) -> tuple[RecallBackend, GrpcRecallSource]:
    await stack.enter_async_context(running(process))
    backend = RecallBackend(name, process.target, CONFIG)
    stack.push_async_callback(backend.close)
    return backend, GrpcRecallSource(Workers([backend]), "v1", Telemetry.create())


async def test_a_good_answer_comes_through(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5, 3], seed=1)
    _, source = await channel(stack, process)
    outcomes = await source.recall([QUERY, QUERY], LONG)
    assert len(outcomes) == 2
    for outcome in outcomes:
        assert (outcome.status, outcome.cause, outcome.bundle_version) == (Status.OK, "", "v1")
        result = outcome.result
        assert result is not None
        assert result.item_ids.tolist() == [5, 3]
        assert result.scores.tolist() == pytest.approx([1.0, 0.99])
        assert result.seed_item_ids is not None
        assert result.seed_item_ids.tolist() == [1, 1]
    (request,) = process.requests
    assert request.bundle_version == "v1"
    assert list(request.queries[0].history.item_ids) == [1]


def doubled(response: Any) -> None:
    response.results[0].item_ids[1] = response.results[0].item_ids[0]


def not_a_number(response: Any) -> None:
    response.results[0].scores[0] = float("nan")


def one_short(response: Any) -> None:
    del response.results[0]


def without_a_score(response: Any) -> None:
    del response.results[0].scores[0]


def out_of_order(response: Any) -> None:
    response.results[0].scores[0] = -1.0


@pytest.mark.parametrize(
    ("tamper", "cause"),
    [
        (doubled, "came back twice"),
        (not_a_number, "not finite"),
        (one_short, "0 results for 1 queries"),
        (without_a_score, "2 item_ids with 1 scores"),
        (out_of_order, "not in order"),
    ],
)
async def test_an_answer_that_breaks_the_contract_is_refused(
    stack: AsyncExitStack, tamper: Callable[[Any], None], cause: str
) -> None:
    _, source = await channel(stack, FakeProcess("itemcf", item_ids=[5, 3], tamper=tamper))
    (outcome,) = await source.recall([QUERY], LONG)
    assert (outcome.status, outcome.result) == (Status.REFUSED, None)
    assert cause in outcome.cause


async def test_a_gateway_pointed_at_the_wrong_channel_says_so(stack: AsyncExitStack) -> None:
    """It is asked once for a batch: no query is to blame."""
    process = FakeProcess("vector", item_ids=[5])
    backend, source = await channel(stack, process, name="itemcf")
    for outcome in await source.recall([QUERY, QUERY, QUERY], LONG):
        assert outcome.status is Status.REFUSED
        assert "is channel 'vector', expected 'itemcf': check the ports" in outcome.cause
    assert len(process.requests) == 1
    await backend.probe()
    assert "serves 'vector', not 'itemcf'" in backend.cause


async def test_a_gateway_pointed_at_another_service_says_so(stack: AsyncExitStack) -> None:
    _, source = await channel(stack, FakeProcess("rank"), name="itemcf")
    (outcome,) = await source.recall([QUERY], LONG)
    assert outcome.status is Status.FAILED
    assert "itemcf: UNIMPLEMENTED" in outcome.cause


async def test_an_answer_of_another_version_is_refused(stack: AsyncExitStack) -> None:
    _, source = await channel(stack, FakeProcess("itemcf", item_ids=[5], version="v0"))
    (outcome,) = await source.recall([QUERY], LONG)
    assert (outcome.status, outcome.result, outcome.bundle_version) == (Status.REFUSED, None, "v0")
    assert "answered with bundle v0, expected v1" in outcome.cause


async def test_a_version_that_is_not_held_is_refused_and_does_not_open_the_breaker(stack: AsyncExitStack) -> None:
    backend, source = await channel(stack, FakeProcess("itemcf", ready=["v0"]))
    for _ in range(4):
        (outcome,) = await source.recall([QUERY], LONG)
        assert (outcome.status, outcome.bundle_version) == (Status.REFUSED, ""), "no version answered"
        assert "FAILED_PRECONDITION: holds only ['v0']" in outcome.cause
    assert not backend.breaker.is_open


async def test_late_ones_time_out_then_are_skipped_then_come_back_after_a_probe(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5], delay=600.0)
    backend, source = await channel(stack, process)
    await backend.probe()
    for _ in range(2):
        (outcome,) = await source.recall([QUERY], 0.5)
        assert outcome.status is Status.TIMEOUT
        assert outcome.microseconds < LONG * 1e6
    asked = len(process.requests)
    (outcome,) = await source.recall([QUERY], 0.5)
    assert outcome.status is Status.SKIPPED
    assert "itemcf was not called" in outcome.cause
    assert "DEADLINE_EXCEEDED" in outcome.cause
    assert len(process.requests) == asked
    process.delay = 0.0
    await backend.probe()
    assert (await source.recall([QUERY], LONG))[0].status is Status.OK


async def test_a_process_that_is_gone_is_skipped_and_used_again_when_it_is_back(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5])
    async with running(process):
        backend = RecallBackend("itemcf", process.target, CONFIG)
        stack.push_async_callback(backend.close)
        source = GrpcRecallSource(Workers([backend]), "v1", Telemetry.create())
        assert (await source.recall([QUERY], LONG))[0].status is Status.OK
        await backend.probe()
        assert backend.reachable
    outcomes = [(await source.recall([QUERY], LONG))[0].status for _ in range(4)]
    assert outcomes == [Status.FAILED, Status.FAILED, Status.SKIPPED, Status.SKIPPED]
    await backend.probe()
    assert not backend.reachable
    assert backend.breaker.is_open
    async with running(process):
        backend.wanted_version = "v1"

        async def probe() -> None:
            while backend.breaker.is_open:
                await backend.probe()
                await asyncio.sleep(0.05)

        await asyncio.wait_for(probe(), PATIENCE_SECONDS)
        assert (await source.recall([QUERY], LONG))[0].status is Status.OK


async def test_a_client_in_a_hurry_does_not_open_the_breaker_for_everybody(stack: AsyncExitStack) -> None:
    backend, source = await channel(stack, FakeProcess("itemcf", item_ids=[5], delay=600.0))
    for _ in range(5):
        assert (await source.recall([QUERY], 0.01))[0].status is Status.TIMEOUT
    assert (await source.recall([QUERY], 0.0))[0].status is Status.TIMEOUT
    assert not backend.breaker.is_open


async def test_an_answer_that_grpc_lost_at_the_deadline_is_a_timeout(stack: AsyncExitStack) -> None:
    backend, _ = await channel(stack, FakeProcess("itemcf"))

    async def lost() -> None:
        return None

    with pytest.raises(DeadlinePassed, match="itemcf: the answer arrived too late"):
        await backend.call(lost, 1.0)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INTERNAL, Status.FAILED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Status.FAILED),
        (grpc.StatusCode.UNAVAILABLE, Status.FAILED),
        (grpc.StatusCode.INVALID_ARGUMENT, Status.REFUSED),
        (grpc.StatusCode.FAILED_PRECONDITION, Status.REFUSED),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Status.TIMEOUT),
    ],
)
async def test_errors_become_statuses_with_their_cause(
    stack: AsyncExitStack, code: grpc.StatusCode, status: Status
) -> None:
    _, source = await channel(stack, FakeProcess("itemcf", failure=code))
    (outcome,) = await source.recall([QUERY], LONG)
    assert outcome.status is status
    assert outcome.cause == f"itemcf: {code.name}: as the test wants it"


async def test_the_breaker_stays_open_until_the_process_has_the_version(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5], ready=[])
    backend, _ = await channel(stack, process)
    backend.wanted_version = "v1"
    for _ in range(2):
        backend.breaker.failed("down")
    await backend.probe()
    assert backend.breaker.is_open
    (request,) = process.requests
    assert (request.bundle_version, len(request.queries)) == ("v1", 0)
    process.refused = {"v1": "a flipped bit"}
    await backend.probe()
    assert backend.breaker.is_open
    assert len(process.requests) == 1
    process.ready, process.refused = ["v1"], {}
    await backend.probe()
    assert not backend.breaker.is_open


def candidates() -> RankQuery:
    result = RecallResult(np.asarray([5, 3], np.int64), np.asarray([1.0, 0.5], np.float32))
    return RankQuery(History.empty(), 100, merge({"itemcf": result}))


async def rank(stack: AsyncExitStack, process: FakeProcess) -> Outcome[Any]:
    await stack.enter_async_context(running(process))
    backend = RankBackend("rank", process.target, CONFIG)
    stack.push_async_callback(backend.close)
    (outcome,) = await GrpcRankSource(Workers([backend]), "v1", Telemetry.create()).rank([candidates()], LONG)
    return outcome


async def test_scores_come_back_in_the_order_of_the_candidates(stack: AsyncExitStack) -> None:
    process = FakeProcess("rank")
    outcome = await rank(stack, process)
    assert outcome.status is Status.OK
    assert outcome.result is not None
    assert outcome.result.tolist() == [3.0, 5.0]
    query = process.requests[0].queries[0]
    assert list(query.item_ids) == [3, 5]
    assert (query.channels[0].channel, list(query.channels[0].ranks)) == ("itemcf", [2, 1])


@pytest.mark.parametrize(
    ("tamper", "cause"), [(not_a_number, "not finite"), (one_short, "0 results"), (without_a_score, "1 scores for 2")]
)
async def test_scores_that_break_the_contract_are_refused(
    stack: AsyncExitStack, tamper: Callable[[Any], None], cause: str
) -> None:
    outcome = await rank(stack, FakeProcess("rank", tamper=tamper))
    assert outcome.status is Status.REFUSED
    assert cause in outcome.cause


async def test_scores_of_another_version_are_refused(stack: AsyncExitStack) -> None:
    outcome = await rank(stack, FakeProcess("rank", version="v7"))
    assert (outcome.status, outcome.result, outcome.bundle_version) == (Status.REFUSED, None, "v7")
    assert "answered with bundle v7, expected v1" in outcome.cause


def anonymous(response: Any) -> None:
    response.bundle_version = ""


async def test_an_answer_that_does_not_say_its_version_is_refused(stack: AsyncExitStack) -> None:
    _, source = await channel(stack, FakeProcess("itemcf", item_ids=[5], tamper=anonymous))
    for outcome in (*await source.recall([QUERY], LONG), await rank(stack, FakeProcess("rank", tamper=anonymous))):
        assert (outcome.status, outcome.result, outcome.bundle_version) == (Status.REFUSED, None, "")
        assert "answered with no bundle version, expected v1" in outcome.cause


async def test_the_time_of_a_call_is_split(stack: AsyncExitStack) -> None:
    process = FakeProcess("itemcf", item_ids=[5])
    await stack.enter_async_context(running(process))
    backend = RecallBackend("itemcf", process.target, CONFIG)
    stack.push_async_callback(backend.close)
    telemetry = Telemetry.create()
    await GrpcRecallSource(Workers([backend]), "v1", telemetry).recall([QUERY], LONG)

    def seconds(part: str) -> float | None:
        labels = {"stage": "recall:itemcf", "part": part, "status": "ok"}
        return telemetry.registry.get_sample_value("recsys_stage_seconds_sum", labels)

    assert seconds("queue") == pytest.approx(10e-6)
    assert seconds("compute") == pytest.approx(20e-6)
    assert (seconds("network") or 0) > 0
    assert len(process.requests) == 1
