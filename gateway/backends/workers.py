"""The processes of one role: calls are spread over them, and one that is lost costs nothing while another is there."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from gateway.backends.backends import Backend
from recsys.errors import Unreachable

Member = TypeVar("Member", bound=Backend)
Response = TypeVar("Response")


class Workers(Generic[Member]):
    """Processes that serve the same, each at an address and over a connection of its own. On the event loop.

    Each has its own breaker and is probed by itself. The port is not shared: the kernel would choose a process per
    connection, by chance and for good, so that load would be uneven and a restarted process would get none.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        """`members`: one or more, all of the same name."""
        self.members = tuple(members)
        self._turn = 0

    @property
    def name(self) -> str:
        """The recall channel or "rank"."""
        return self.members[0].name

    def pick(self, version: str) -> Member:
        """The one with the fewest calls in flight; in turn where several have.

        Those that are skipped, or that have not loaded `version`, are chosen only if all are.
        """
        if len(self.members) == 1:
            return self.members[0]
        self._turn = (self._turn + 1) % len(self.members)
        in_turn = (*self.members[self._turn :], *self.members[: self._turn])
        return _best(in_turn, version)

    async def ask(
        self,
        version: str,
        timeout: float,  # noqa: ASYNC109 - gRPC's own deadline
        question: Callable[[Member, float], Awaitable[Response]],
    ) -> Response:
        """What `question(process, seconds)` returns. If the process cannot be reached, another one is asked, once.

        Raises what `question` raises.
        """
        started = time.perf_counter()
        asked = self.pick(version)
        try:
            return await question(asked, timeout)
        except Unreachable:
            others = [one for one in self.members if one is not asked and one.is_ready(version)]
            if not others:
                raise
            return await question(_best(others, version), timeout - (time.perf_counter() - started))


def _best(processes: Sequence[Member], version: str) -> Member:
    """The first of those that are called, have loaded `version`, and have the fewest calls in flight."""
    return min(processes, key=lambda one: (one.breaker.is_open, not one.is_ready(version), one.in_flight))
