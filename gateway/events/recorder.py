"""Records events off the event loop and shows them to the same user's next request.

One thread appends to the store. Requests that wait together are written in one batch (group commit), so a sync to disk
is paid per batch, not per request; each is answered only when its batch is durable.

Several processes may record in one store. Every request first looks at what any of them, this one included, has
recorded since the last look; so what one has acknowledged is in the next answer of each.

Most users have no recorded events, and a Bloom filter in memory identifies nearly all of them: their requests need no
thread, and nothing of the store but that look. The events of recent users are remembered until new ones are seen.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.events.batches import batches
from gateway.events.store import Event, EventStore, RecordedEvent
from recsys.errors import Overloaded, RecsysError, Unreachable

logger = logging.getLogger(__name__)

_MAX_BATCH = 64
_MAX_WAITING = 1_024
_MAX_SEEN = 256
"""New events that a request looks at on the event loop; where there are more, a thread does."""
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


class EventRecorder:
    """The events of all users: durable in a store, those of recent users in memory as well."""

    def __init__(self, store: EventStore, *, remembered_users: int = 20_000) -> None:
        """Owns `store` from now on. The events of at most `remembered_users` are kept in memory."""
        self._store = store
        self._seen, self._has_events = _seen_so_far(store)
        self._remembered: OrderedDict[str, tuple[RecordedEvent, ...] | object] = OrderedDict()
        """The events of a user, or, while a thread reads them, what marks that none were recorded meanwhile."""
        self._max_remembered = remembered_users
        self._memory = threading.Lock()
        self._queue: queue.Queue[_Write | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._write_until_closed, name="event-recorder", daemon=True)
        self._thread.start()

    @property
    def log_id(self) -> str:
        """Which log the row ids of the events belong to."""
        return self._store.log_id

    async def record(self, events: Sequence[Event]) -> int:
        """Returns, once they are durable, how many of the events were new.

        Raises:
            Overloaded: too many requests wait for the store.
            Unreachable: the store cannot be written; nothing was recorded.
        """
        loop = asyncio.get_running_loop()
        write = _Write(events, loop, loop.create_future())
        try:
            self._queue.put_nowait(write)
        except queue.Full:
            raise Overloaded(
                f"{_MAX_WAITING} requests wait to be recorded; send the same request again later"
            ) from None
        return await write.done

    async def of(self, user_key: str) -> tuple[RecordedEvent, ...]:
        """All recorded events of one user, in order of recording, including all acknowledged before the call.

        Raises:
            Unreachable: the store cannot be read.
        """
        loop = asyncio.get_running_loop()
        if not self._look():
            await loop.run_in_executor(None, self._look_at_all)
        if not self._has_events[_bloom_slot(user_key)]:
            return ()
        with self._memory:
            events = self._remembered.get(user_key)
            if isinstance(events, tuple):
                self._remembered.move_to_end(user_key)
                return events
        return await loop.run_in_executor(None, self._read, user_key)

    def _look(self) -> bool:
        """Notes who has new events, and forgets what was remembered of them; false if there are more to look at."""
        with self._memory:
            new = self._store.recorded_since(self._seen, _MAX_SEEN)
            for row_id, user_key in new:
                self._has_events[_bloom_slot(user_key)] = 1
                self._remembered.pop(user_key, None)
                self._seen = row_id
        return len(new) < _MAX_SEEN

    def _look_at_all(self) -> None:
        while not self._look():
            pass

    def _read(self, user_key: str) -> tuple[RecordedEvent, ...]:
        unchanged = object()
        with self._memory:
            self._remembered[user_key] = unchanged
            while len(self._remembered) > self._max_remembered:
                self._remembered.popitem(last=False)
        events = self._store.events_of(user_key)
        with self._memory:
            if self._remembered.get(user_key) is unchanged:  # otherwise newer events may be missing from what was read
                self._remembered[user_key] = events
        return events

    def close(self) -> None:
        """Writes what waits, then closes the store."""
        self._queue.put(None)
        self._thread.join()
        self._store.close()

    def _write_until_closed(self) -> None:
        for batch in batches(self._queue, _MAX_BATCH):
            self._write(batch)

    def _write(self, batch: list[_Write]) -> None:
        try:
            recorded = self._store.append([write.events for write in batch])
        except Unreachable as error:
            for write in batch:
                write.settle(Unreachable(str(error)))  # an exception of its own for each request that raises it
            return
        for write, count in zip(batch, recorded, strict=True):
            write.settle(count)


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
