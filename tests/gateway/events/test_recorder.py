"""Recorded events: durable, once each, and visible to the next request."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.events import recorder as recording
from gateway.events.recorder import EventLimits, EventRecorder
from gateway.events.sqlite_store import SQLiteEventStore, append_events, events_of, log_id, open_events
from gateway.events.store import Event, EventStore, RecordedEvent
from recsys.domain import EventType
from recsys.errors import CannotStart, Unreachable
from tests.waiting import PATIENCE_SECONDS

PATIENT = EventLimits(PATIENCE_SECONDS, PATIENCE_SECONDS)
FULL = 2
"""What SQLite calls `synchronous=FULL`: a commit returns when the disk has it."""


def event(
    event_id: str, *, user_key: str = "7", item_key: str = "10", time: int = 100, value: float | None = None
) -> Event:
    return Event(event_id, "", user_key, item_key, None, None, EventType.VIEW, value, time, time)


def rows(path: Path) -> list[tuple[int, str]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT row_id, event_id FROM events ORDER BY row_id").fetchall()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events" / "events.sqlite"


@pytest.fixture
def store(path: Path) -> SQLiteEventStore:
    return SQLiteEventStore(path)


@pytest.fixture
def recorder(store: SQLiteEventStore) -> Iterator[EventRecorder]:
    subject = EventRecorder(store, PATIENT)
    yield subject
    subject.close()


class InMemoryStore(EventStore):
    """The contract in a dozen lines; while `down`, it can neither be read nor written."""

    log_id = "memory"

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise Unreachable("the store is down")

    def append(self, batches: Sequence[Sequence[Event]]) -> list[int]:
        self._check()
        before = [len(self.events)]
        for batch in batches:
            for sent in batch:
                self.events.setdefault(sent.event_id, sent)
            before.append(len(self.events))
        return [after - earlier for earlier, after in pairwise(before)]

    def events_of(self, user_key: str, after: int) -> tuple[RecordedEvent, ...]:
        self._check()
        return tuple(
            RecordedEvent(row_id, kept.item_key, kept.type, kept.value, kept.time)
            for row_id, kept in enumerate(self.events.values(), start=1)
            if kept.user_key == user_key and row_id > after
        )

    def users_with_events(self) -> Iterator[str]:
        self._check()
        yield from {kept.user_key for kept in self.events.values()}

    def last_row_id(self) -> int:
        self._check()
        return len(self.events)

    def recorded_since(self, row_id: int, limit: int) -> Sequence[tuple[int, str]]:
        self._check()
        rows = [(number, kept.user_key) for number, kept in enumerate(self.events.values(), start=1)]
        return rows[row_id : row_id + limit]

    def commits(self) -> int:
        return len(self.events)

    def close(self) -> None:
        self.down = True


async def test_a_recorder_needs_nothing_of_a_store_but_the_contract() -> None:
    store = InMemoryStore()
    store.append([[event("old", item_key="9")]])
    recorder = EventRecorder(store, PATIENT)
    assert recorder.log_id == "memory"
    assert await recorder.record([event("a"), event("old"), event("b", user_key="8")]) == 2
    assert [(recorded.row_id, recorded.item_key) for recorded in await recorder.of("7")] == [(1, "9"), (2, "10")]
    store.down = True
    waiting = [asyncio.create_task(recorder.record([event(name)])) for name in "cd"]
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(failure) for failure in failures] == ["the store is down"] * 2
    assert failures[0] is not failures[1]
    with pytest.raises(Unreachable, match="the store is down"):
        await recorder.of("8")
    recorder.close()


async def test_an_event_is_on_disk_when_it_is_acknowledged(recorder: EventRecorder, path: Path) -> None:
    assert await recorder.record([event("a"), event("b")]) == 2
    assert rows(path) == [(1, "a"), (2, "b")]


def test_every_commit_is_synced_to_disk_before_it_returns(store: SQLiteEventStore) -> None:
    """A killed process would not tell: what it wrote stays with the kernel, and only a power cut loses it."""
    for connection in (store._writer, store._reader, store._watcher):
        assert connection.execute("PRAGMA synchronous").fetchone() == (FULL,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_an_event_sent_twice_is_recorded_once_and_the_first_one_stays(recorder: EventRecorder) -> None:
    assert await recorder.record([event("a", item_key="10"), event("a", item_key="11")]) == 1
    assert await recorder.record([event("a", item_key="12"), event("b", item_key="13")]) == 1
    assert [recorded.item_key for recorded in await recorder.of("7")] == ["10", "13"]


async def test_row_ids_rise_without_regard_to_duplicates(recorder: EventRecorder, path: Path) -> None:
    for event_id in ("a", "a", "b", "a", "c"):
        await recorder.record([event(event_id)])
    row_ids = [row_id for row_id, _ in rows(path)]
    assert row_ids == sorted(set(row_ids))
    assert [event_id for _, event_id in rows(path)] == ["a", "b", "c"]


async def test_the_same_users_next_request_sees_it(recorder: EventRecorder) -> None:
    assert await recorder.of("7") == ()
    for n in range(1, 20):
        await recorder.record([event(f"e{n}", item_key=str(n))])
        assert [recorded.item_key for recorded in await recorder.of("7")] == [str(k) for k in range(1, n + 1)]
    assert await recorder.of("8") == ()


async def test_values_and_their_absence_come_back(recorder: EventRecorder) -> None:
    await recorder.record([event("a", value=0.0), event("b")])
    assert [recorded.value for recorded in await recorder.of("7")] == [0.0, None]


async def test_concurrent_requests_are_all_answered_with_their_own_count(recorder: EventRecorder, path: Path) -> None:
    batches = [
        [event(f"{n}-{k}", user_key=str(n)) for k in range(n % 4)] + [event("shared", user_key="all")]
        for n in range(60)
    ]
    recorded = await asyncio.gather(*(recorder.record(batch) for batch in batches))
    assert sum(recorded) == sum(len(batch) - 1 for batch in batches) + 1
    assert len(rows(path)) == sum(recorded)
    for n, batch in enumerate(batches):
        assert len(await recorder.of(str(n))) == len(batch) - 1


async def test_requests_that_wait_together_share_a_commit(
    recorder: EventRecorder, store: SQLiteEventStore, path: Path
) -> None:
    """The first batch waits for a lock on the file; what arrives meanwhile is the second batch."""
    statements: list[str] = []
    store._writer.execute(f"PRAGMA busy_timeout={1000 * PATIENCE_SECONDS:.0f}")
    store._writer.set_trace_callback(statements.append)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(recorder.record([event(f"e{n}")])) for n in range(50)]
    await asyncio.sleep(0)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await asyncio.gather(*waiting) == [1] * 50
    assert statements.count("COMMIT") <= 2
    assert len(rows(path)) == 50


async def test_the_event_loop_continues_while_the_disk_is_slow(path: Path) -> None:
    ticked = threading.Event()

    class SlowStore(SQLiteEventStore):
        def append(self, batches: Sequence[Sequence[Event]]) -> list[int]:
            if not ticked.wait(PATIENCE_SECONDS):
                raise Unreachable("the event loop stood still")
            return super().append(batches)

    recorder = EventRecorder(SlowStore(path), PATIENT)
    waiting = asyncio.create_task(recorder.record([event("a")]))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not waiting.done()
    ticked.set()
    assert await waiting == 1
    recorder.close()


async def test_at_most_so_many_users_are_remembered_and_others_are_read_again(path: Path) -> None:
    recorder = EventRecorder(SQLiteEventStore(path), EventLimits(PATIENCE_SECONDS, PATIENCE_SECONDS, 2))
    for user in "1234":
        await recorder.record([event(f"e{user}", user_key=user)])
    for user in "12341":
        assert [recorded.row_id for recorded in await recorder.of(user)] == [int(user)]
    assert len(recorder._remembered) == 2
    recorder.close()


async def test_only_users_who_may_have_events_are_looked_up(path: Path) -> None:
    looked_up: list[str] = []

    class Watched(SQLiteEventStore):
        def events_of(self, user_key: str, after: int) -> tuple[RecordedEvent, ...]:
            looked_up.append(user_key)
            return super().events_of(user_key, after)

    recorder = EventRecorder(Watched(path), PATIENT)
    await recorder.record([event("a", user_key="7")])
    for user in ("8", "7", "7", "9"):
        await recorder.of(user)
    recorder.close()
    assert looked_up == ["7"]


async def test_nobody_is_answered_as_if_without_events_if_nobody_can_tell(
    recorder: EventRecorder, store: SQLiteEventStore
) -> None:
    await recorder.record([event("a", user_key="7")])
    store._writer.execute("ALTER TABLE events RENAME TO elsewhere")
    for user in "78":
        with pytest.raises(Unreachable, match="no such table"):
            await recorder.of(user)


async def test_users_who_share_a_slot_of_the_bloom_filter_keep_their_own_events(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_BLOOM_SLOTS", 1)
    recorder = EventRecorder(SQLiteEventStore(path), PATIENT)
    await recorder.record([event("a", user_key="7")])
    assert await recorder.of("8") == ()
    assert [recorded.row_id for recorded in await recorder.of("7")] == [1]
    recorder.close()


async def test_events_survive_a_restart(path: Path) -> None:
    first = EventRecorder(SQLiteEventStore(path), PATIENT)
    await first.record([event("a")])
    first.close()
    second = EventRecorder(SQLiteEventStore(path), PATIENT)
    assert [recorded.item_key for recorded in await second.of("7")] == ["10"]
    assert await second.record([event("a"), event("b", item_key="11")]) == 1
    assert [recorded.item_key for recorded in await second.of("7")] == ["10", "11"]
    second.close()


async def test_a_batch_that_cannot_be_written_acknowledges_nothing(
    recorder: EventRecorder, store: SQLiteEventStore, path: Path
) -> None:
    await recorder.record([event("a")])
    blocker = sqlite3.connect(path, isolation_level=None)
    store._writer.execute("PRAGMA busy_timeout=10")
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unreachable, match=r"database is locked.*nothing was recorded"):
        await recorder.record([event("b")])
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await recorder.record([event("b")]) == 1
    assert [event_id for _, event_id in rows(path)] == ["a", "b"]


async def test_a_full_disk_is_reported_and_nothing_is_lost(
    recorder: EventRecorder, store: SQLiteEventStore, path: Path
) -> None:
    await recorder.record([event("a")])
    pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
    store._writer.execute(f"PRAGMA max_page_count={pages}")
    many = [event(f"big-{n}", item_key="k" * 250) for n in range(500)]
    with pytest.raises(Unreachable, match="full"):
        await recorder.record(many)
    store._writer.execute("PRAGMA max_page_count=1000000")
    assert rows(path) == [(1, "a")]
    assert await recorder.record(many) == 500


def test_a_transaction_that_fails_half_way_leaves_nothing(path: Path) -> None:
    connection = open_events(path)
    broken = event("b")
    object.__setattr__(broken, "user_key", None)
    with pytest.raises(sqlite3.IntegrityError):
        append_events(connection, [[event("a")], [broken]])
    assert events_of(connection, "7", 0) == ()
    assert append_events(connection, [[event("a")], []]) == [1, 0]
    connection.close()


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(CannotStart, match="cannot be opened"):
        EventRecorder(SQLiteEventStore(path), PATIENT)


def test_another_schema_is_refused(path: Path) -> None:
    connection = open_events(path)
    connection.execute("PRAGMA user_version=9")
    connection.close()
    with pytest.raises(CannotStart, match="schema 9, this software writes schema 2"):
        EventRecorder(SQLiteEventStore(path), PATIENT)


def test_each_file_has_a_log_id_of_its_own_and_keeps_it(path: Path) -> None:
    ids = []
    for place in (path, path, path.with_name("fresh.sqlite")):
        subject = EventRecorder(SQLiteEventStore(place), PATIENT)
        ids.append(subject.log_id)
        subject.close()
    path.rename(path.with_name("moved.sqlite"))
    moved = EventRecorder(SQLiteEventStore(path.with_name("moved.sqlite")), PATIENT)
    assert ids == [moved.log_id, moved.log_id, ids[2]]
    assert ids[2] != moved.log_id
    assert all(len(name) == 32 and int(name, 16) for name in ids)
    moved.close()


async def test_a_file_from_before_logs_had_ids_gets_one_and_keeps_its_events(path: Path) -> None:
    connection = open_events(path)
    append_events(connection, [[event("a")]])
    connection.executescript("DROP TABLE log; PRAGMA user_version=1")
    connection.close()
    subject = EventRecorder(SQLiteEventStore(path), PATIENT)
    assert await subject.record([event("b")]) == 1
    assert rows(path) == [(1, "a"), (2, "b")]
    subject.close()
    connection = open_events(path)
    assert log_id(connection, path) == subject.log_id
    connection.close()


def test_a_log_id_that_was_lost_is_not_made_up(path: Path) -> None:
    connection = open_events(path)
    connection.execute("DELETE FROM log")
    connection.close()
    with pytest.raises(CannotStart, match=r"events\.sqlite: it had a log id when it was created"):
        EventRecorder(SQLiteEventStore(path), PATIENT)


async def test_if_the_list_of_users_is_damaged_every_request_reads_the_store(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connection = open_events(path)
    append_events(connection, [[event("a")]])
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events_by_user'").fetchone()[0]
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))
    recorder = EventRecorder(SQLiteEventStore(path), PATIENT)
    assert "the users with events cannot be listed, so every request reads the store" in caplog.text
    with pytest.raises(Unreachable, match="malformed"):
        await recorder.of("8")
    recorder.close()


async def test_a_copy_of_the_log_files_taken_at_any_moment_holds_what_was_acknowledged(
    recorder: EventRecorder, tmp_path: Path, path: Path
) -> None:
    for n in range(10):
        await recorder.record([event(f"e{n}")])
        copy = tmp_path / f"copy-{n}"
        shutil.copytree(path.parent, copy)
        assert [event_id for _, event_id in rows(copy / path.name)] == [f"e{k}" for k in range(n + 1)]
