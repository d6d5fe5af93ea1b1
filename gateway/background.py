"""Tasks that run in the background for as long as the process lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

logger = logging.getLogger(__name__)


def start(name: str, step: Callable[[], Awaitable[None]], pause: Callable[[], float], until: AsyncExitStack) -> None:
    """Runs `step` repeatedly with `pause()` seconds in between, until the stack closes.

    A step that fails is logged and tried again: a gateway that silently stopped probing would never recover.
    """

    async def repeat() -> None:
        while True:
            try:
                await step()
            except Exception:
                logger.exception("%s failed; it will be tried again", name)
            await asyncio.sleep(pause())

    task = asyncio.create_task(repeat(), name=name)

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    until.push_async_callback(stop)
