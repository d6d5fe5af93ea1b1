"""What waits in a queue, in groups: one transaction then serves many callers."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def groups(waiting: queue.Queue[T | None], most: int, *, pause_seconds: float = 0.0) -> Iterator[list[T]]:
    """Groups of 1 to `most` entries in order of arrival, until None is taken from the queue; nothing before it is lost.

    After a group's first entry, `pause_seconds` pass before the rest is collected, so that more can join.
    """
    while (first := waiting.get()) is not None:
        if pause_seconds:
            time.sleep(pause_seconds)
        group, closing = [first], False
        while len(group) < most and not closing:
            try:
                following = waiting.get_nowait()
            except queue.Empty:
                break
            if following is None:
                closing = True
            else:
                group.append(following)
        yield group
        if closing:
            return
