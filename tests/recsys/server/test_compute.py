from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import pytest

from recsys.errors import DeadlinePassed
from recsys.server.compute import Compute
from recsys.server.telemetry import Telemetry
from tests.waiting import PATIENCE_SECONDS

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


async def test_waiting_and_computing_are_measured_separately(compute: Compute) -> None:
    """Neither is part of the other: together they are no more than the time that passed."""
    release, began = threading.Event(), time.perf_counter()
    busy, waiting = await queued(compute.run(until(release))), await queued(compute.run(lambda: 7))
    release.set()
    first, second = await busy, await waiting
    passed = time.perf_counter() - began
    assert first.compute_seconds >= 0.2
    assert first.queue_seconds + first.compute_seconds <= passed
    assert second.value == 7
    assert second.queue_seconds >= 0.2
    assert second.queue_seconds + second.compute_seconds <= passed
    assert second.queue_microseconds == int(second.queue_seconds * 1e6)


async def test_work_runs_elsewhere_in_the_context_of_its_call(compute: Compute) -> None:
    PINNED.set("v1")
    found = await compute.run(lambda: (threading.current_thread() is threading.main_thread(), PINNED.get()))
    assert found.value == (False, "v1")


async def test_small_work_that_is_alone_runs_where_it_is(compute: Compute, telemetry: Telemetry) -> None:
    found = await compute.run(threading.current_thread, small=True)
    assert found.value is threading.main_thread()
    assert found.queue_seconds < 0.1
    assert (count(telemetry, "queue", "ok"), count(telemetry, "compute", "ok")) == (1, 1)


async def test_small_work_that_is_not_alone_runs_in_a_thread(compute: Compute) -> None:
    release = threading.Event()
    busy = await queued(compute.run(until(release)))
    small = await queued(compute.run(threading.current_thread, small=True))
    release.set()
    await busy
    assert (await small).value is not threading.main_thread()
    assert (await compute.run(threading.current_thread, small=True)).value is threading.main_thread()


async def test_work_whose_deadline_passed_in_the_queue_does_not_run(compute: Compute, telemetry: Telemetry) -> None:
    ran: list[str] = []
    release = threading.Event()
    busy = await queued(compute.run(until(release)))
    late = await queued(compute.run(lambda: ran.append("late"), remaining_seconds=0.02))
    release.set()
    with pytest.raises(DeadlinePassed, match="for a free thread, the deadline left 20 ms; send fewer calls"):
        await late
    await busy
    assert ran == []
    assert (count(telemetry, "queue", "timeout"), count(telemetry, "compute", "timeout")) == (1, 0)


async def test_failures_are_measured_and_raised(compute: Compute, telemetry: Telemetry) -> None:
    with pytest.raises(ZeroDivisionError):
        await compute.run(lambda: 1 / 0)
    assert (count(telemetry, "queue", "failed"), count(telemetry, "compute", "failed")) == (1, 1)
