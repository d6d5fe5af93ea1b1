"""Circuit breaker: stops calling a process that keeps failing, so that requests lose no time on it."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.pipeline.stages import Skipped


class Breaker:
    """Closed: calls go through. Open: calls are skipped at once, until a probe finds the process healthy again.

    After a probe has closed it, one failure opens it again: a process whose status answers but whose work hangs costs
    one late call per probe, not several. Not thread-safe: it lives on the event loop.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 3,
        window_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens after `failures` failures in a row, none further than `window_seconds` from the one before."""
        self._name = name
        self._limit = failures
        self._window = window_seconds
        self._clock = clock
        self._failures = 0
        self._failed_at = 0.0
        self._open = False
        self._cause = ""

    @property
    def is_open(self) -> bool:
        """Whether calls are skipped."""
        return self._open

    @property
    def cause(self) -> str:
        """Why calls are skipped; empty while they are not."""
        return self._cause if self._open else ""

    def check(self) -> None:
        """Raises Skipped, with the last failure as its cause, while the breaker is open."""
        if self._open:
            raise Skipped(f"{self._name} was not called while it is being probed in the background: {self._cause}")

    def failed(self, cause: str) -> None:
        """Counts a failure."""
        now = self._clock()
        if now - self._failed_at > self._window and not self._open:
            self._failures = 0
        self._failures += 1
        self._failed_at = now
        self._cause = cause
        self._open = self._open or self._failures >= self._limit

    def succeeded(self) -> None:
        """Forgets earlier failures after a successful call; an open breaker waits for a probe."""
        if not self._open:
            self._failures = 0

    def close(self) -> None:
        """Lets calls through again after a probe; the next failure opens the breaker at once."""
        if self._open:
            self._open = False
            self._failures = self._limit - 1
            self._failed_at = self._clock()
