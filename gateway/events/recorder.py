"""Records events off the event loop and shows them to the same user's next request.

One thread appends to the store. Requests that wait together are written in one batch (group commit), so a sync to disk
is paid per batch, not per request; each is answered only when its batch is durable.

Several processes may record in one store. Every request first compares the number of commits, which they share in
memory, with that of its last look; so what one has acknowledged is in the next answer of each.

Most users have no recorded events, and a Bloom filter in memory identifies nearly all of them: their requests need no
thread. The events of recent users are remembered until new ones are seen. Whatever touches the disk is done by a
thread, and nobody waits for it longer than the time limits allow.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.events.reads import Reads
from gateway.events.remembered import RememberedEvents
from gateway.events.store import Event, EventStore, RecordedEvent
from gateway.events.writer import BatchWriter
from recsys.errors import Overloaded, RecsysError, Unreachable

logger = logging.getLogger(__name__)

_MAX_BATCH = 64
_MAX_WAITING = 1_024
_MAX_SEEN = 256
"""New events that are read at a time."""
_MAX_REMEMBERED = 200_000
"""Events of all users together that are kept in memory."""
_BLOOM_SLOTS = 1 << 22
"""Slots of the Bloom filter, a byte each. With a million users in it, a fifth of the others read the store in vain."""


@dataclass(frozen=True, slots=True)
class _Write:
    events: Sequence[Event]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[int]

    def settle(self, outcome: int | RecsysError) -> None:
        """Answers the waiting request; one that has gone away, with or without its event loop, needs no answer."""
        try:
            self.loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:  # the loop has closed
            return

    def _settle(self, outcome: int | RecsysError) -> None:
        if self.done.done():
            return
        if isinstance(outcome, RecsysError):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)


@dataclass(frozen=True, slots=True)
class EventLimits:
    """How long a request waits for the store, in seconds, and how many users' events are kept in memory."""

    write_seconds: float
    read_seconds: float
    remembered_users: int = 20_000


class EventRecorder:
    """The events of all users: durable in a store, those of recent users in memory as well."""

    def __init__(self, store: EventStore, limits: EventLimits) -> None:
        """Owns `store` from now on."""
        self._store, self._write_seconds = store, limits.write_seconds
        self._noticed = store.commits()
        self._seen, self._has_events = _seen_so_far(store)
        self._looking = threading.Lock()
        self._remembered = RememberedEvents(limits.remembered_users, _MAX_REMEMBERED)
        self._reads = Reads(limits.read_seconds)
        waiting: queue.Queue[_Write | None] = queue.Queue(_MAX_WAITING)
        self._writer = BatchWriter("event-recorder", self._write, _fail, waiting, _MAX_BATCH)

    @property
    def log_id(self) -> str:
        """Which log the row ids of the events belong to."""
        return self._store.log_id

    async def record(self, events: Sequence[Event]) -> int:
        """Returns, once they are durable, how many of the events were new.

        Raises:
            Overloaded: too many requests wait for the store.
            Unreachable: the store cannot be written, and nothing was recorded; or it is not known in time.
        """
        loop = asyncio.get_running_loop()
        write = _Write(events, loop, loop.create_future())
        try:
            self._writer.put(write)
        except queue.Full:
            raise Overloaded(
                f"{_MAX_WAITING} requests wait to be recorded; send the same request again later"
            ) from None
        try:
            async with asyncio.timeout(self._write_seconds):
                return await write.done
        except TimeoutError:
            raise Unreachable(
                f"not known after {self._write_seconds:g} s whether the events were recorded; send the same events "
                "again, their ids make that safe"
            ) from None

    async def of(self, user_key: str, *, after: int = 0) -> tuple[RecordedEvent, ...]:
        """The recorded events of one user later than row `after`, as `EventStore.events_of` says.

        All that were acknowledged before the call are taken into account.

        Raises:
            Unreachable: the store cannot be read.
            DeadlinePassed: it was not read in time.
        """
        if self._noticed != self._store.commits():
            await self._reads.run(self._look)
        if not self._has_events[_bloom_slot(user_key)]:
            return ()
        events = self._remembered.of(user_key, after)
        if events is None:
            events = await self._reads.run(lambda: self._read(user_key, after))
        return events

    def _look(self) -> None:
        """Notes who has new events, and forgets what was remembered of them."""
        with self._looking:
            commits = self._store.commits()
            while self._noticed != commits:
                new = self._store.recorded_since(self._seen, _MAX_SEEN)
                for _, user_key in new:
                    self._has_events[_bloom_slot(user_key)] = 1
                self._remembered.forget(user_key for _, user_key in new)
                if new:
                    self._seen = new[-1][0]
                if len(new) < _MAX_SEEN:
                    self._noticed = commits

    def _read(self, user_key: str, after: int) -> tuple[RecordedEvent, ...]:
        reading = self._remembered.begin(user_key, after)
        events = self._store.events_of(user_key, after)
        self._remembered.end(user_key, reading, events)
        return events

    def close(self) -> None:
        """Writes what waits, then closes the store; a store that is stuck is left to the end of the process."""
        self._reads.close()
        if self._writer.close():
            self._store.close()
        else:
            logger.error("the events store is stuck: events that were not acknowledged may not be recorded")

    def _write(self, batch: Sequence[_Write]) -> None:
        try:
            recorded = self._store.append([write.events for write in batch])
        except Unreachable as error:
            for write in batch:
                write.settle(Unreachable(str(error)))  # an exception of its own for each request that raises it
            return
        for write, count in zip(batch, recorded, strict=True):
            write.settle(count)


def _fail(batch: Sequence[_Write], error: BaseException) -> None:
    """Answers requests whose write ended in a way that no store should end it."""
    for write in batch:
        write.settle(Unreachable(f"not known whether the events were recorded ({error!r}); send the same events again"))


def _seen_so_far(store: EventStore) -> tuple[int, bytearray]:
    """A row id, and by slot of the Bloom filter 1 where a user may have events up to that row.

    All 1 if the store cannot list its users, so that every request reads it.
    """
    last, slots = 0, bytearray(_BLOOM_SLOTS)
    try:
        last = store.last_row_id()
        for user_key in store.users_with_events():
            slots[_bloom_slot(user_key)] = 1
    except Unreachable as error:
        logger.error("the users with events cannot be listed, so every request reads the store: %s", error)  # noqa: TRY400
        return last, bytearray(b"\x01") * _BLOOM_SLOTS
    return last, slots


def _bloom_slot(user_key: str) -> int:
    """The slot of a user; users may share one."""
    return hash(user_key) % _BLOOM_SLOTS
