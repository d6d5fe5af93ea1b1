"""Which requests are refused because they would wait longer than they can."""

from __future__ import annotations

import asyncio

import pytest

from gateway.pipeline.batching import BatchLimits
from gateway.pipeline.stages import Budget, Status
from gateway.pipeline.work import Answer
from recsys.errors import Overloaded
from tests.gateway.pipeline.batches import Served, asked, limits, status


async def full(seconds_per_batch: float, waiting: int) -> tuple[Served, list[asyncio.Task[Answer]]]:
    """Two batches of four in progress and `waiting` requests behind them, once a batch has taken so long."""
    served = Served(limits=limits(size=4, slots=2))
    served.slow.open.clear()
    first = served.ask(1)
    await asked(served.slow, 1)
    await asyncio.sleep(seconds_per_batch)
    served.slow.open.set()
    await first
    served.slow.open.clear()
    tasks = [served.ask(item) for item in (*[1] * 8, *[2] * waiting)]
    await asked(served.slow, 3)
    return served, tasks


async def test_a_request_is_admitted_while_there_is_a_slot_however_little_time_it_has() -> None:
    served = Served()
    served.batcher.admit(Budget.of(0.0))
    await served.ask(1)
    served.batcher.admit(Budget.of(0.0))


@pytest.mark.parametrize("waiting", [0, 3, 9])
async def test_a_request_is_refused_if_it_would_wait_longer_than_it_can(waiting: int) -> None:
    """A batch takes .3 s, so one leaves every .15 s; whoever waits needs twice .3 s more."""
    served, tasks = await full(0.3, waiting)
    needed = (waiting // 4 + 0.5) * 0.15 + 2 * 0.3
    served.batcher.admit(Budget.of(3 * needed))
    with pytest.raises(Overloaded, match=rf"^{waiting} requests are waiting, a new one would need") as refused:
        served.batcher.admit(Budget.of(0.97 * needed))
    assert refused.value.retry_seconds is not None
    assert 0.15 <= refused.value.retry_seconds < 3 * needed
    with pytest.raises(Overloaded) as much_later:
        served.batcher.admit(Budget.of(0.0))
    assert much_later.value.retry_seconds == pytest.approx(max(0.15, (waiting // 4 + 0.5) * 0.15), rel=0.3)
    for task in tasks[8:]:
        task.cancel()
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"^0 requests are waiting"):
        served.batcher.admit(Budget.of(0.1))
    served.slow.open.set()
    await asyncio.gather(*tasks[:8])
    served.batcher.admit(Budget.of(0.0))


async def one_batch(served: Served, seconds: float) -> None:
    """A batch that takes so long."""
    served.slow.open.clear()
    first, batches = served.ask(1), len(served.slow.batches)
    await asked(served.slow, batches + 1)
    await asyncio.sleep(seconds)
    served.slow.open.set()
    await first


async def refuses(served: Served, budget: Budget) -> None:
    """While a batch is in progress, who has so much time is refused."""
    served.slow.open.clear()
    last, batches = served.ask(1), len(served.slow.batches)
    await asked(served.slow, batches + 1)
    with pytest.raises(Overloaded):
        served.batcher.admit(budget)
    served.slow.open.set()
    await last


async def test_a_batch_that_takes_longer_is_noticed_at_once() -> None:
    served = Served(limits=limits(size=4, slots=1))
    for seconds in (0.0, 0.0, 0.0, 0.3):
        await one_batch(served, seconds)
    await refuses(served, Budget.of(0.25))


async def test_batches_that_their_callers_cut_short_are_not_quick_ones() -> None:
    served = Served(limits=limits(size=4, slots=1))
    await one_batch(served, 0.3)
    served.slow.open.clear()
    for _ in range(20):
        assert status(await served.ask(1, seconds=0.04), "recall:itemcf") is Status.TIMEOUT
    await refuses(served, Budget.of(0.6))


async def test_the_time_that_a_hanging_process_takes_is_no_load() -> None:
    """Three batches wait for it in vain, side by side; each takes a hundred times as long as usual."""
    served = Served(limits=BatchLimits(size=1, slots=1, least_patience_seconds=0.2))
    await served.ask(1)
    served.slow.open.clear()
    hanging = [served.ask(item, seconds=4.0) for item in (1, 2, 3)]
    await asked(served.slow, 4)
    for task in hanging:
        assert status(await task, "recall:itemcf") is Status.TIMEOUT
    served.slow.open.set()
    served.rank.open.clear()
    last = served.ask(1)
    await asked(served.rank, 5)
    served.batcher.admit(Budget.of(0.45))
    served.rank.open.set()
    await last
