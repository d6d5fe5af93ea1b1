"""Running the models, with the time spent waiting told apart from the time spent working.

A lone small call is computed on the event loop: handing it to a thread and back costs as much as the popularity
channel's whole answer. As soon as a call is not alone, or large, threads take it.
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

from recsys.calls import after_answer
from recsys.errors import DeadlinePassed
from recsys.telemetry import Telemetry

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A result with the seconds it waited for a thread and the seconds it took."""

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
    """A few threads that run the models. C code releases the interpreter lock, so the event loop stays responsive."""

    def __init__(self, threads: int, stage: str, telemetry: Telemetry) -> None:
        """`stage` names the work in the metrics, as the gateway names it."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._stage = stage
        self._seconds = telemetry.stage_seconds
        self._in_threads = 0

    async def run(
        self, work: Callable[[], T], *, remaining_seconds: float | None = None, small: bool = False
    ) -> Timed[T]:
        """Runs `work` and measures it, whatever comes of it: here if it is `small` and alone, otherwise in a thread.

        Raises:
            DeadlinePassed: `remaining_seconds` were over before a thread was free; `work` did not run.
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
        """Lets running work finish and forgets what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _timed(self, work: Callable[[], T], queued: float, remaining_seconds: float | None) -> Timed[T]:
        started = time.perf_counter()
        waited = started - queued
        if remaining_seconds is not None and waited >= remaining_seconds:
            self._observe("queue", "timeout", waited)
            raise DeadlinePassed(
                f"waited {waited * 1e3:.0f} ms for a free thread, the deadline left {remaining_seconds * 1e3:.0f} "
                "ms; send fewer calls at a time, or set --compute-threads"
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
