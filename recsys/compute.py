"""Computing off the event loop, with the time spent waiting told apart from the time spent working."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from recsys.errors import DeadlinePassed

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

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="compute")

    async def run(self, work: Callable[[], T], *, remaining_seconds: float | None = None) -> Timed[T]:
        """Runs `work` in a thread.

        Raises:
            DeadlinePassed: `remaining_seconds` were over before a thread was free; `work` did not run.
        """
        queued = time.perf_counter()

        def timed() -> Timed[T]:
            started = time.perf_counter()
            waited = started - queued
            if remaining_seconds is not None and waited >= remaining_seconds:
                raise DeadlinePassed(
                    f"waited {waited * 1e3:.0f} ms for a free thread, the deadline left {remaining_seconds * 1e3:.0f} "
                    "ms; send fewer calls at a time, or set --compute-threads"
                )
            value = work()
            return Timed(value, waited, time.perf_counter() - started)

        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: context.run(timed))

    def close(self) -> None:
        """Lets running work finish and forgets what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)
