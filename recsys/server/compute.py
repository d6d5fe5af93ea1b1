"""Running the models, with waiting and computing time measured separately.

A single small call is computed on the event loop: handing it to a thread and back costs as much as the popularity
channel's whole computation. A large call, or one that is not alone, runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from recsys.errors import DeadlinePassed
from recsys.server.calls import after_answer
from recsys.server.telemetry import Telemetry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A result, with the seconds that it waited for a thread and the seconds that it took."""

    value: T
    queue_seconds: float
    compute_seconds: float

    @property
    def queue_microseconds(self) -> int:
        """`queue_seconds` in whole microseconds."""
        return int(self.queue_seconds * 1e6)

    @property
    def compute_microseconds(self) -> int:
        """`compute_seconds` in whole microseconds."""
        return int(self.compute_seconds * 1e6)


class Compute:
    """Threads that run the models. Native code releases the interpreter lock, so the event loop stays responsive."""

    def __init__(self, threads: int, stage: str, telemetry: Telemetry) -> None:
        """`stage` names the work in the metrics, as in the gateway."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._stage = stage
        self._seconds = telemetry.stage_seconds
        self._in_threads = 0

    async def run(
        self, work: Callable[[], T], *, remaining_seconds: float | None = None, small: bool = False
    ) -> Timed[T]:
        """Runs `work` and measures it, even if it fails: here if it is `small` and alone, otherwise in a thread.

        Raises:
            DeadlinePassed: `remaining_seconds` had passed before a thread was free; `work` did not run.
        """
        if small and not self._in_threads:
            return self._timed(work, time.perf_counter(), None)
        context, queued = contextvars.copy_context(), time.perf_counter()
        timed = partial(context.run, self._timed, work, queued, remaining_seconds)
        self._in_threads += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, timed)
        finally:
            self._in_threads -= 1

    def close(self) -> None:
        """Lets running work finish and drops what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _timed(self, work: Callable[[], T], queued: float, remaining_seconds: float | None) -> Timed[T]:
        started = time.perf_counter()
        waited = started - queued
        if remaining_seconds is not None and waited >= remaining_seconds:
            self._observe("queue", "timeout", waited)
            raise DeadlinePassed(
                f"waited {waited * 1e3:.0f} ms for a free thread, the deadline left {remaining_seconds * 1e3:.0f} "
                "ms; send fewer calls at a time, or raise --compute-threads"
            )
        status = "failed"
        try:
            value = work()
            status = "ok"
        finally:
            seconds = time.perf_counter() - started
            self._observe("queue", status, waited)
            self._observe("compute", status, seconds)
        return Timed(value, waited, seconds)

    def _observe(self, part: str, status: str, seconds: float) -> None:
        after_answer(lambda: self._seconds.labels(self._stage, part, status).observe(seconds))
