"""Micro-batching: requests that arrive while the pipeline is busy are answered together. Nothing waits for a timer.

A request that finds a free slot leaves at once, alone or with those that arrived in the same turn of the event loop.
While all slots are taken, requests wait; those that have waited longest leave as a batch when a slot frees. So batches
grow with the load, and the busier the gateway is, the more requests share the cost of a call.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from gateway.pipeline.stages import Budget, Status
from gateway.pipeline.work import Answer, Job
from recsys import ewma
from recsys.errors import Overloaded

_PATIENCE = 4.0
"""A batch that takes this many times as long as usual is stuck: it does not hold up the requests behind it."""
_RISE = 0.5
"""Weight of a batch that took longer than usual. Where the load rises steeply, batches grow, and must be known to take
longer before hundreds of requests wait; that it has fallen may be learned slowly.
"""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How many requests are in one pipeline at a time."""

    size: int = 32
    """Most requests in a batch."""
    slots: int = 1
    """Most batches at a time. One makes larger batches than two, which cost less; with more cores two may be better."""
    least_patience_seconds: float = 0.1
    """No batch is taken for stuck before: a full one on a slow machine takes nearly as long."""


class Batcher:
    """The queue in front of one pipeline. It lives on the event loop."""

    def __init__(self, pipeline: Pipeline, limits: BatchLimits, *, observe: Callable[[int], object]):
        """`observe` is called with the size of every batch."""
        self.pipeline = pipeline
        self._limits = limits
        self._observe = observe
        self._free = limits.slots
        self._waiting: deque[Job] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._usual_seconds = 0.0
        """Moving average of the time that a batch takes: quick to rise, slow to fall."""

    def admit(self, budget: Budget) -> None:
        """Raises Overloaded if there is a `refusal` of a request with this budget."""
        if error := self.refusal(budget.remaining()):
            raise error

    def refusal(self, seconds: float) -> Overloaded | None:
        """Why a request would probably not be answered in full within `seconds`, and when it would have been admitted.

        With n requests waiting, one that joins them leaves in batch n // size + 1, and a batch leaves every
        `usual seconds / slots`, the first after half of that on average. Then it needs the time of a batch,
        and as much again, since recall may use only a share of what is left.
        """
        if self._free > 0:
            return None
        between = self._usual_seconds / self._limits.slots
        wait = (len(self._waiting) // self._limits.size + 0.5) * between
        needed = wait + 2 * self._usual_seconds
        if needed <= seconds:
            return None
        return Overloaded(
            f"{len(self._waiting)} requests are waiting, a new one would need {needed * 1e3:.0f} ms, its budget is "
            f"{seconds * 1e3:.0f} ms; retry later, or send fewer requests",
            retry_seconds=max(between, min(wait, needed - seconds)),
        )

    async def answer(self, request: Request, budget: Budget) -> Answer:
        """The pipeline's answer. A caller who goes away costs the others nothing.

        Calls in progress are never cancelled, not even when all callers of a batch have gone: they end by themselves,
        and grpc.aio keeps a kilobyte for good of every call that is cancelled (grpc/grpc#43360).

        Raises what goes wrong with this request and is not the failure of a source.
        """
        loop = asyncio.get_running_loop()
        job = Job(request, budget, loop.create_future())
        leaves_now = len(self._waiting) < self._free * self._limits.size
        late = None if leaves_now else loop.call_later(max(0.0, budget.remaining()), self._time_is_up, job)
        self._waiting.append(job)
        if len(self._waiting) == 1:
            loop.call_soon(self._leave)  # with the others that arrive in this turn of the loop
        try:
            return await job.answer
        except asyncio.CancelledError:
            if job in self._waiting:
                self._waiting.remove(job)
            raise
        finally:
            if late is not None:
                late.cancel()

    def _time_is_up(self, job: Job) -> None:
        """Answers a request that still waits without a slot: it asks nobody any more."""
        if job in self._waiting:
            self._waiting.remove(job)
            self._start(self._answer([job]))

    def _leave(self) -> None:
        """Sends batches off while there are slots and requests."""
        while self._free > 0 and self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._limits.size))]
            self._free -= 1
            self._start(self._run(batch))

    def _start(self, run: Coroutine[Any, Any, None]) -> None:
        # In a context of its own, because a batch is nobody's call.
        task = asyncio.get_running_loop().create_task(run, context=contextvars.Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, batch: Sequence[Job]) -> None:
        self._observe(len(batch))
        started, slot = time.perf_counter(), _Slot(self._give_back)
        patience = max(self._limits.least_patience_seconds, _PATIENCE * self._usual_seconds)
        stuck = asyncio.get_running_loop().call_later(patience, slot.give_back)
        try:
            await self._answer(batch)
        finally:
            stuck.cancel()
            self._learn(time.perf_counter() - started, batch, stuck=slot.is_back)
            slot.give_back()

    async def _answer(self, batch: Sequence[Job]) -> None:
        try:
            await self.pipeline.answer(batch)
        except Exception as error:  # noqa: BLE001 - raised where the answers are awaited
            for job in batch:
                if not job.answer.done():
                    job.answer.set_exception(error)
        finally:
            for job in batch:
                job.answer.cancel()  # has no effect on an answer

    def _learn(self, took: float, batch: Sequence[Job], *, stuck: bool) -> None:
        """Takes note of how long a batch took."""
        usual = self._usual_seconds
        if stuck and _ended_so(batch, Status.TIMEOUT, Status.FAILED):
            return  # what a hanging process takes says nothing about the load
        if not usual:
            self._usual_seconds = took
        elif took > usual:
            self._usual_seconds = ewma.updated(usual, took, _RISE)
        elif not _ended_so(batch, Status.TIMEOUT):  # else it would have taken longer, had there been time
            self._usual_seconds = ewma.updated(usual, took)

    def _give_back(self) -> None:
        self._free += 1
        self._leave()


class _Slot:
    """A slot of the pipeline, which is given back once: at the end of its batch, or when the batch is stuck."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self.is_back = False

    def give_back(self) -> None:
        if not self.is_back:
            self.is_back = True
            self._give_back()


def _ended_so(batch: Sequence[Job], *statuses: Status) -> bool:
    """Whether some stage of some answer did, or something unexpected happened."""
    answers = [job.answer for job in batch if not job.answer.cancelled()]
    return any(
        answer.exception() is not None or any(stage.status in statuses for stage in answer.result().stages)
        for answer in answers
    )
