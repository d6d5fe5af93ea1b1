"""Running the models, with waiting and computing time measured apart.

A batch whose predicted time is short is computed on the event loop: handing it to a thread and back costs a switch of
threads each way, and a thread that holds the interpreter's lock makes the loop no more responsive. With every batch in
a thread a request of the whole system takes 9 % more CPU with 16 in flight and 1 % more with 64 (ml-1m-timed, median of
31 rounds in turn). Longer ones run in a thread, so that health checks and other calls are answered meanwhile.
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

from recsys import ewma
from recsys.errors import DeadlinePassed
from recsys.server.current_call import after_answer
from recsys.server.telemetry import Telemetry

T = TypeVar("T")

Leave = Callable[[Callable[[], None]], object]
"""Leaves what measures for after the answer, from the thread that computes."""

SHORT_SECONDS = 0.02
"""A batch that is predicted to take no longer is computed on the event loop. Nothing else happens there meanwhile."""

SHORT_SECONDS_BESIDE_THREADS = 0.001
"""The same with several threads, which compute at the same time: only what a switch of threads would not pay for."""

FIRST_GUESS_SECONDS = 0.001
"""What a query is predicted to take before any has been measured."""


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """A result, with the seconds that the call waited before it was computed and the seconds that this took."""

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
    """Where the models of a process are run: on the event loop, or in threads."""

    def __init__(self, threads: int, stage: str, telemetry: Telemetry) -> None:
        """`stage` names the work in the metrics, as in the gateway."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="compute")
        self._stage = stage
        self._seconds = telemetry.stage_seconds
        self._short = SHORT_SECONDS if threads == 1 else SHORT_SECONDS_BESIDE_THREADS
        self._query_seconds = FIRST_GUESS_SECONDS
        """Exponentially weighted moving average of the time that one query takes."""

    async def run(
        self,
        work: Callable[[], T],
        *,
        queries: int,
        waited_seconds: float = 0.0,
        remaining_seconds: float | None = None,
    ) -> Timed[T]:
        """Runs `work`, which answers `queries` queries, and measures it, even if it fails.

        `waited_seconds` is how long the call has waited before, `remaining_seconds` what is left until its deadline.

        Raises:
            DeadlinePassed: the deadline passed before the work could begin; it did not run.
        """
        timed = partial(self._timed, work, time.perf_counter(), waited_seconds, remaining_seconds)
        if queries * self._query_seconds <= self._short:
            done = timed(after_answer)
        else:
            loop, context = asyncio.get_running_loop(), contextvars.copy_context()

            def on_the_loop(measure: Callable[[], None]) -> None:
                """Metrics are the loop's, and work may outlive the call that waits for it."""
                loop.call_soon_threadsafe(after_answer, measure)

            done = await loop.run_in_executor(self._executor, context.run, timed, on_the_loop)
        if queries:
            self._query_seconds = ewma.updated(self._query_seconds, done.compute_seconds / queries)
        return done

    def close(self) -> None:
        """Lets running work finish and drops what waits."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _timed(
        self, work: Callable[[], T], queued: float, waited: float, remaining: float | None, leave: Leave
    ) -> Timed[T]:
        started = time.perf_counter()
        for_thread = started - queued
        if remaining is not None and for_thread >= remaining:
            leave(partial(self._observe, "timeout", waited + for_thread))
            raise DeadlinePassed(
                f"waited {(waited + for_thread) * 1e3:.0f} ms for its turn, the deadline left "
                f"{(waited + remaining) * 1e3:.0f} ms; send fewer calls at a time, or raise --compute-threads"
            )
        status = "failed"
        try:
            value = work()
            status = "ok"
        finally:
            seconds = time.perf_counter() - started
            leave(partial(self._observe, status, waited + for_thread, seconds))
        return Timed(value, waited + for_thread, seconds)

    def _observe(self, status: str, queue: float, compute: float | None = None) -> None:
        """Without `compute` the work has not run."""
        self._seconds.labels(self._stage, "queue", status).observe(queue)
        if compute is not None:
            self._seconds.labels(self._stage, "compute", status).observe(compute)
