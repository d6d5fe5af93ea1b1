"""Takes what waits in a queue in batches, so that one transaction serves many callers."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(waiting: queue.Queue[T | None], max_size: int, *, pause_seconds: float = 0.0) -> Iterator[list[T]]:
    """Batches of 1 to `max_size` entries in order of arrival, until None is taken from the queue; none is lost.

    After a batch's first entry, `pause_seconds` pass before the rest is collected, so that more can join.
    """
    while (first := waiting.get()) is not None:
        if pause_seconds:
            time.sleep(pause_seconds)
        batch, closing = [first], False
        while len(batch) < max_size and not closing:
            try:
                entry = waiting.get_nowait()
            except queue.Empty:
                break
            if entry is None:
                closing = True
            else:
                batch.append(entry)
        yield batch
        if closing:
            return
