from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

import pytest

from recsys.compute import Compute
from recsys.errors import DeadlinePassed
from recsys.telemetry import Telemetry

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


async def test_waiting_is_told_apart_from_working(compute: Compute) -> None:
    first, second = await asyncio.gather(compute.run(lambda: time.sleep(0.1)), compute.run(lambda: 7))
    assert first.queue_seconds < 0.05 < 0.1 <= first.compute_seconds
    assert second.value == 7
    assert second.compute_seconds < 0.05 < second.queue_seconds
    assert second.queue_microseconds == int(second.queue_seconds * 1e6)


async def test_work_runs_elsewhere_in_the_context_of_its_call(compute: Compute) -> None:
    PINNED.set("v1")
    found = await compute.run(lambda: (threading.current_thread() is threading.main_thread(), PINNED.get()))
    assert found.value == (False, "v1")


async def test_work_whose_deadline_passed_in_the_queue_does_not_run(compute: Compute, telemetry: Telemetry) -> None:
    ran: list[str] = []
    busy = asyncio.ensure_future(compute.run(lambda: time.sleep(0.1)))
    await asyncio.sleep(0)
    with pytest.raises(DeadlinePassed, match="for a free thread, the deadline left 20 ms; send fewer calls"):
        await compute.run(lambda: ran.append("late"), remaining_seconds=0.02)
    await busy
    assert ran == []
    assert (count(telemetry, "queue", "timeout"), count(telemetry, "compute", "timeout")) == (1, 0)


async def test_failures_are_measured_and_raised(compute: Compute, telemetry: Telemetry) -> None:
    with pytest.raises(ZeroDivisionError):
        await compute.run(lambda: 1 / 0)
    assert (count(telemetry, "queue", "failed"), count(telemetry, "compute", "failed")) == (1, 1)
