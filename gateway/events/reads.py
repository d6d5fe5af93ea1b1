"""Reads of the disk for requests: each for a limited time, and together in a few threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from recsys.errors import DeadlinePassed

Result = TypeVar("Result")

_THREADS = 4


class Reads:
    """Threads that read; while all are stuck in reads that nobody waits for any more, none is begun."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: the time limit of a read, which includes its wait for a thread."""
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_THREADS, "events-read")
        self._late: set[Future[Any]] = set()

    async def run(self, read: Callable[[], Result]) -> Result:
        """The result of `read`, or what it raises.

        Raises:
            DeadlinePassed: it took too long, or earlier reads still do.
        """
        if len(self._late) >= _THREADS:
            raise DeadlinePassed(f"recorded events: {_THREADS} reads of the disk are stuck; check the disk")
        future = self._threads.submit(read)
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise DeadlinePassed(
                f"recorded events: not read within {self._seconds * 1e3:g} ms; check the disk"
            ) from None
        finally:
            if not future.done():  # given up while it runs; one that only waited for a thread has been cancelled
                self._late.add(future)
                future.add_done_callback(self._late.discard)

    def close(self) -> None:
        """Begins no further reads, and waits for none."""
        self._threads.shutdown(wait=False, cancel_futures=True)
