"""Recorded events in one SQLite table that is durable before anything is acknowledged.

The workers of a gateway write it, each in its turn; `ingest --events-from` reads the rows after the tables' watermark.
Row ids mean something only within one file, so each file has a log id, and a watermark belongs to a log id.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

from gateway.events import sqlite
from gateway.events.commits import Commits
from gateway.events.store import MAX_RECORDED, Event, EventStore, RecordedEvent
from recsys.errors import CannotStart

SCHEMA_VERSION = 2
OLDEST_SCHEMA = 1
"""The same without `log`; a file of this version gets its log id when it is opened for writing."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    row_id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- ascending in order of commit, never used twice: the watermark
    event_id    TEXT NOT NULL UNIQUE,               -- given by the client; the first event with an id stays
    request_id  TEXT NOT NULL,                      -- the answer that led to the event; empty if there is none
    user_key    TEXT NOT NULL,                      -- canonical: a number's key is its decimal form
    item_key    TEXT NOT NULL,                      -- canonical, also of items that no bundle knows
    user_id     INTEGER,                            -- if the number was known when the event was received
    item_id     INTEGER,                            -- if the number was known when the event was received
    type        INTEGER NOT NULL,                   -- number of recsys.v1.EventType
    value       REAL,                               -- rating or weight; NULL if the event has none
    time        INTEGER NOT NULL,                   -- Unix seconds, never later than received
    received    INTEGER NOT NULL                    -- Unix seconds on the gateway's clock
) STRICT;
CREATE INDEX IF NOT EXISTS events_by_user ON events (user_key, row_id);
CREATE TABLE IF NOT EXISTS log (
    only INTEGER PRIMARY KEY CHECK (only = 1),      -- one row
    id   TEXT NOT NULL                              -- 128 random bits: which sequence of row ids this is, moved or not
) STRICT;
INSERT OR IGNORE INTO log (only, id) VALUES (1, lower(hex(randomblob(16))))
"""

_INSERT = """
INSERT INTO events (event_id, request_id, user_key, item_key, user_id, item_id, type, value, time, received)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING
"""
_USERS = "SELECT DISTINCT user_key FROM events"
_LAST = "SELECT coalesce(max(row_id), 0) FROM events"
_SINCE = "SELECT row_id, user_key FROM events WHERE row_id > ? ORDER BY row_id LIMIT ?"
_OF_USER = """
SELECT row_id, item_key, type, value, time FROM events WHERE user_key = ? AND row_id > ? ORDER BY row_id DESC LIMIT ?
"""


class SQLiteEventStore(EventStore):
    """Events in a SQLite file, with one connection that writes, one that reads and one that looks for new events."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file; raises CannotStart if that fails."""
        self._path = path
        self._writer = open_events(path)
        self._reader = open_events(path)
        self._reading = threading.Lock()
        self._watcher = open_events(path)
        self._watching = threading.Lock()
        self.log_id = log_id(self._writer, path)
        self._commits = _shared_commits(path)

    def append(self, batches: Sequence[Sequence[Event]]) -> list[int]:
        """See `EventStore`; one transaction, synced to disk."""
        try:
            with sqlite.turn(self._path):
                recorded = append_events(self._writer, batches)
                self._commits.add()  # also if nothing was new: who wrote it may have died before counting it
                return recorded
        except (sqlite3.Error, OSError) as error:
            raise sqlite.unwritten(self._path, error) from error

    def events_of(self, user_key: str, after: int) -> tuple[RecordedEvent, ...]:
        """See `EventStore`."""
        try:
            with self._reading:
                return events_of(self._reader, user_key, after)
        except sqlite3.Error as error:
            raise sqlite.unreadable(self._path, error) from error

    def users_with_events(self) -> Iterator[str]:
        """See `EventStore`; reads the index only: about a second for ten million events."""
        try:
            with self._reading:
                for (user_key,) in self._reader.execute(_USERS):
                    yield user_key
        except sqlite3.Error as error:
            raise sqlite.unreadable(self._path, error) from error

    def last_row_id(self) -> int:
        """See `EventStore`."""
        try:
            with self._watching:
                return int(self._watcher.execute(_LAST).fetchone()[0])
        except sqlite3.Error as error:
            raise sqlite.unreadable(self._path, error) from error

    def recorded_since(self, row_id: int, limit: int) -> Sequence[tuple[int, str]]:
        """See `EventStore`: one look at the end of the table, 4 µs."""
        try:
            with self._watching:
                return self._watcher.execute(_SINCE, (row_id, limit)).fetchall()
        except sqlite3.Error as error:
            raise sqlite.unreadable(self._path, error) from error

    def commits(self) -> int:
        """See `EventStore`; a look at shared memory."""
        return self._commits.count()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
        with self._reading, self._watching:
            self._reader.close()
            self._watcher.close()
        self._commits.close()


def open_events(path: Path) -> sqlite3.Connection:
    """Opens or creates the table. Raises CannotStart if it cannot be used."""
    return sqlite.connect(path, schema=SCHEMA, version=SCHEMA_VERSION, synchronous="FULL", oldest=OLDEST_SCHEMA)


def log_id(connection: sqlite3.Connection, path: Path) -> str:
    """Which log this is: random, created with the file, the same wherever the file is moved.

    Raises:
        CannotStart: the id of the file, at `path`, cannot be read.
    """
    try:
        found = connection.execute("SELECT id FROM log").fetchone()
    except sqlite3.Error as error:
        raise CannotStart(f"{path}: its log id cannot be read ({error}); restore the file") from error
    if found is None:
        raise CannotStart(f"{path}: it had a log id when it was created, and has none now; restore the file")
    return str(found[0])


def append_events(connection: sqlite3.Connection, batches: Sequence[Sequence[Event]]) -> list[int]:
    """Writes all batches in one durable transaction; returns how many events of each were new.

    Raises:
        sqlite3.Error: nothing of any batch was written.
    """
    with sqlite.transaction(connection):
        recorded = [connection.executemany(_INSERT, [astuple(event) for event in batch]).rowcount for batch in batches]
    return [max(0, count) for count in recorded]


def events_of(connection: sqlite3.Connection, user_key: str, after: int) -> tuple[RecordedEvent, ...]:
    """The last MAX_RECORDED events of one user later than row `after`, in order of recording."""
    rows = connection.execute(_OF_USER, (user_key, after, MAX_RECORDED)).fetchall()
    return tuple(RecordedEvent(*row) for row in reversed(rows))


def _shared_commits(path: Path) -> Commits:
    """The count of the file; opening counts too, because who committed last may have died before counting it.

    Raises:
        CannotStart: there is no room for it.
    """
    try:
        commits = Commits(path)
        with sqlite.turn(path):
            commits.add()
    except OSError as error:
        raise CannotStart(
            f"{path}: its commits cannot be counted ({error}); free disk space, or fix the permissions"
        ) from error
    return commits
