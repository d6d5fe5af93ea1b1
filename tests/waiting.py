"""Waiting for a state. A slow machine comes to it late; the limit only says when to give up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_SECONDS = 120.0
"""For what takes seconds on an idle machine: a start of servers, a restart, a roll-out."""


def eventually(condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until `condition` holds; fails where it does not in time."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.05)


async def soon(condition: Callable[[], bool], what: str, *, seconds: float = PATIENCE_SECONDS) -> None:
    """The same on an event loop that runs meanwhile."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"waited {seconds:g} s in vain until {what}"
        await asyncio.sleep(0.01)
