from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import pytest

from recsys.errors import DeadlinePassed
from recsys.server.compute import FIRST_GUESS_SECONDS, SHORT_SECONDS, SHORT_SECONDS_BESIDE_THREADS, Compute
from recsys.server.current_call import Call, current
from recsys.server.telemetry import Telemetry
from tests.waiting import PATIENCE_SECONDS, soon

T = TypeVar("T")
PINNED: ContextVar[str] = ContextVar("PINNED")


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry.create()


@pytest.fixture
def compute(telemetry: Telemetry) -> Iterator[Compute]:
    compute = Compute(1, "rank", telemetry)
    yield compute
    compute.close()


def count(telemetry: Telemetry, part: str, status: str) -> float:
    labels = {"stage": "rank", "part": part, "status": status}
    return telemetry.registry.get_sample_value("recsys_stage_seconds_count", labels) or 0.0


async def queued(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Work that waits for a thread by now, or has one."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


def until(release: threading.Event) -> Callable[[], None]:
    """Work of 0.2 s, begun when `release` is set."""

    def work() -> None:
        assert release.wait(PATIENCE_SECONDS)
        time.sleep(0.2)

    return work


def is_on_the_loop() -> bool:
    return threading.current_thread() is threading.main_thread()


MANY = round(SHORT_SECONDS / FIRST_GUESS_SECONDS) + 1
"""Queries of a batch that goes to a thread while nothing has been measured yet."""


async def test_waiting_and_computing_are_measured_separately(compute: Compute) -> None:
    """Neither is part of the other: together they are no more than the time that passed."""
    release, began = threading.Event(), time.perf_counter()
    busy = await queued(compute.run(until(release), queries=MANY))
    waiting = await queued(compute.run(lambda: 7, queries=MANY))
    release.set()
    first, second = await busy, await waiting
    passed = time.perf_counter() - began
    assert first.compute_seconds >= 0.2
    assert first.queue_seconds + first.compute_seconds <= passed
    assert second.value == 7
    assert second.queue_seconds >= 0.2
    assert second.queue_seconds + second.compute_seconds <= passed
    assert second.queue_microseconds == int(second.queue_seconds * 1e6)


@pytest.mark.parametrize("queries", [1, MANY])
async def test_what_a_call_has_waited_before_is_part_of_its_queue(
    compute: Compute, telemetry: Telemetry, queries: int
) -> None:
    found = await compute.run(lambda: 7, queries=queries, waited_seconds=30.0)
    assert 30 <= found.queue_seconds < 30 + PATIENCE_SECONDS
    labels = {"stage": "rank", "part": "queue", "status": "ok"}
    assert telemetry.registry.get_sample_value("recsys_stage_seconds_sum", labels) == found.queue_seconds


@pytest.mark.parametrize(("queries", "on_the_loop"), [(MANY - 1, True), (MANY, False)])
async def test_short_batches_are_computed_on_the_loop_and_long_ones_elsewhere_in_the_context_of_their_call(
    compute: Compute, queries: int, on_the_loop: bool
) -> None:
    PINNED.set("v1")
    found = await compute.run(lambda: (is_on_the_loop(), PINNED.get()), queries=queries)
    assert found.value == (on_the_loop, "v1")


async def test_a_short_batch_does_not_wait_for_a_long_one(compute: Compute) -> None:
    release = threading.Event()
    busy = await queued(compute.run(until(release), queries=MANY))
    assert (await compute.run(is_on_the_loop, queries=1)).value
    assert not busy.done()
    release.set()
    await busy


async def test_which_batches_are_short_is_learnt_from_what_queries_took(compute: Compute) -> None:
    for _ in range(30):
        await compute.run(lambda: time.sleep(2 * SHORT_SECONDS), queries=1)
    assert not (await compute.run(is_on_the_loop, queries=1)).value, "one query is a long batch by now"
    for _ in range(100):
        await compute.run(lambda: None, queries=1)
    assert (await compute.run(is_on_the_loop, queries=MANY)).value, "many queries are a short batch by now"


async def test_several_threads_take_all_but_the_shortest_batches(telemetry: Telemetry) -> None:
    compute = Compute(2, "rank", telemetry)
    for _ in range(100):
        await compute.run(lambda: time.sleep(SHORT_SECONDS_BESIDE_THREADS / 4), queries=1)
    assert not (await compute.run(is_on_the_loop, queries=8)).value
    compute.close()


async def test_work_that_outlives_its_call_is_measured_on_the_loop(
    compute: Compute, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a call does it: cancelled while it computes, and measured before that is over."""
    threads: list[bool] = []
    observe = type(telemetry.stage_seconds).observe

    def noted(*arguments: Any) -> None:
        threads.append(is_on_the_loop())
        observe(*arguments)

    monkeypatch.setattr(type(telemetry.stage_seconds), "observe", noted)
    release, call = threading.Event(), Call("RankService/Rank", None)
    current.set(call)
    busy = await queued(compute.run(until(release), queries=MANY))
    busy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await busy
    call.later = None
    release.set()
    await soon(lambda: len(threads) == 2, "queue and computation are measured")
    assert threads == [True, True]
    assert (count(telemetry, "queue", "ok"), count(telemetry, "compute", "ok")) == (1, 1)


async def test_an_empty_batch_teaches_nothing(compute: Compute) -> None:
    await compute.run(lambda: time.sleep(5 * SHORT_SECONDS), queries=0)
    assert (await compute.run(is_on_the_loop, queries=MANY - 1)).value


async def test_work_whose_deadline_passed_in_the_queue_does_not_run(compute: Compute, telemetry: Telemetry) -> None:
    ran: list[str] = []
    release = threading.Event()
    busy = await queued(compute.run(until(release), queries=MANY))
    work = compute.run(lambda: ran.append("late"), queries=MANY, waited_seconds=0.03, remaining_seconds=0.02)
    late = await queued(work)
    release.set()
    with pytest.raises(DeadlinePassed, match="for its turn, the deadline left 50 ms; send fewer calls"):
        await late
    await busy
    assert ran == []
    assert (count(telemetry, "queue", "timeout"), count(telemetry, "compute", "timeout")) == (1, 0)


async def test_a_short_batch_whose_deadline_has_passed_does_not_run_either(
    compute: Compute, telemetry: Telemetry
) -> None:
    ran: list[str] = []
    with pytest.raises(DeadlinePassed, match="waited 40 ms for its turn, the deadline left 40 ms"):
        await compute.run(lambda: ran.append("late"), queries=1, waited_seconds=0.04, remaining_seconds=0.0)
    assert ran == []
    assert (count(telemetry, "queue", "timeout"), count(telemetry, "compute", "timeout")) == (1, 0)


@pytest.mark.parametrize("queries", [1, MANY])
async def test_failures_are_measured_and_raised(compute: Compute, telemetry: Telemetry, queries: int) -> None:
    with pytest.raises(ZeroDivisionError):
        await compute.run(lambda: 1 / 0, queries=queries)
    assert (count(telemetry, "queue", "failed"), count(telemetry, "compute", "failed")) == (1, 1)
