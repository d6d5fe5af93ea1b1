"""Records events off the event loop and shows them to the same user's next request.

One thread writes. Requests that wait together are written in one transaction (group commit), so a sync to disk is paid
per group, not per request; each is answered only when its transaction is durable.

Most users have no recorded events, and a table in memory says so of nearly all of them: their requests are spared the
way to a thread and back.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.events import sqlite
from gateway.events.grouping import groups
from gateway.events.store import (
    Event,
    RecordedEvent,
    append_events,
    events_of,
    log_id,
    open_events,
    users_with_events,
)
from recsys.errors import Overloaded, RecsysError

logger = logging.getLogger(__name__)

_MAX_GROUP = 64
_MAX_WAITING = 1_024
_PLACES = 1 << 22
"""Bytes of the table of users with events. A million of them send a fifth of the others to the file for nothing."""


@dataclass(frozen=True, slots=True)
class _Write:
    events: Sequence[Event]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[int]

    def settle(self, outcome: int | RecsysError) -> None:
        """Tells the waiting request; one that has gone away, with its loop or without it, needs no answer."""
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
    """The events of all users: durable in SQLite, the recently asked ones in memory."""

    def __init__(self, path: Path, *, remembered_users: int = 20_000) -> None:
        """Opens the file; raises CannotStart where that fails. At most `remembered_users` are held in memory.

        `log` is the file's log id: which sequence of row ids its events are numbered in.
        """
        self._path = path
        self._writer = open_events(path)
        self._reader = open_events(path)
        self.log = log_id(self._writer, path)
        self._has_events = _table_of_users(self._reader, path)
        self._reading = threading.Lock()
        self._remembered: OrderedDict[str, tuple[RecordedEvent, ...]] = OrderedDict()
        self._most_remembered = remembered_users
        self._commits = 0
        self._memory = threading.Lock()
        self._queue: queue.Queue[_Write | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._write_until_closed, name="event-recorder", daemon=True)
        self._thread.start()

    async def record(self, events: Sequence[Event]) -> int:
        """Returns, once they are durable, how many of the events were new.

        Raises:
            Overloaded: too many requests wait for the disk.
            Unreachable: the file cannot be written; nothing was recorded.
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
        """All recorded events of one user, in order of recording; holds everything acknowledged before the call."""
        if not self._has_events[_place(user_key)]:
            return ()
        with self._memory:
            events = self._remembered.get(user_key)
            if events is not None:
                self._remembered.move_to_end(user_key)
                return events
        return await asyncio.get_running_loop().run_in_executor(None, self._read, user_key)

    def _read(self, user_key: str) -> tuple[RecordedEvent, ...]:
        commits = self._commits
        try:
            with self._reading:
                events = events_of(self._reader, user_key)
        except sqlite3.Error as error:
            raise sqlite.unreadable(self._path, error) from error
        with self._memory:
            if commits == self._commits:  # otherwise a newer event may be missing from what was read
                self._remembered[user_key] = events
                while len(self._remembered) > self._most_remembered:
                    self._remembered.popitem(last=False)
        return events

    def close(self) -> None:
        """Writes what waits, then closes the file."""
        self._queue.put(None)
        self._thread.join()
        self._writer.close()
        with self._reading:
            self._reader.close()

    def _write_until_closed(self) -> None:
        for group in groups(self._queue, _MAX_GROUP):
            self._write(group)

    def _write(self, group: list[_Write]) -> None:
        try:
            recorded = append_events(self._writer, [write.events for write in group])
        except sqlite3.Error as error:
            for write in group:
                write.settle(sqlite.unwritten(self._path, error))
            return
        with self._memory:
            self._commits += 1
            for write in group:
                for event in write.events:
                    self._has_events[_place(event.user_key)] = 1
                    self._remembered.pop(event.user_key, None)
        for write, count in zip(group, recorded, strict=True):
            write.settle(count)


def _table_of_users(connection: sqlite3.Connection, path: Path) -> bytearray:
    """By place, 1 where a user may have events; everywhere where the file cannot say, so that every request asks it."""
    table = bytearray(_PLACES)
    try:
        for user_key in users_with_events(connection):
            table[_place(user_key)] = 1
    except sqlite3.Error as error:
        logger.error("%s: its users cannot be read (%s), every request will try; restore the file", path, error)  # noqa: TRY400
        return bytearray(b"\x01") * _PLACES
    return table


def _place(user_key: str) -> int:
    """Where a user stands in the table; users may share a place."""
    return hash(user_key) % _PLACES
