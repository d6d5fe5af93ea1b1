"""Several processes record in one file: what one has acknowledged, each knows at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.events import recorder as recording
from gateway.events import sqlite
from gateway.events.recorder import EventLimits, EventRecorder
from gateway.events.sqlite_store import SQLiteEventStore, open_events
from gateway.events.store import Event, RecordedEvent
from recsys.domain import EventType
from tests.waiting import PATIENCE_SECONDS

PATIENT = EventLimits(PATIENCE_SECONDS, PATIENCE_SECONDS)
COMMITS = 20
PROCESSES = 4
OPEN = "import sys; from pathlib import Path; from gateway.events.sqlite_store import SQLiteEventStore; "
OPEN += "sys.stdin.read(); print(SQLiteEventStore(Path(sys.argv[1])).log_id)"


def event(event_id: str, *, user_key: str = "7", item_key: str = "10") -> Event:
    return Event(event_id, "", user_key, item_key, None, None, EventType.VIEW, None, 100, 100)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite"


@pytest.fixture
def pair(path: Path) -> Iterator[tuple[EventRecorder, EventRecorder]]:
    """Two recorders that share nothing but the file."""
    both = EventRecorder(SQLiteEventStore(path), PATIENT), EventRecorder(SQLiteEventStore(path), PATIENT)
    yield both
    for recorder in both:
        recorder.close()


async def items(recorder: EventRecorder, user_key: str = "7") -> list[str]:
    return [recorded.item_key for recorded in await recorder.of(user_key)]


async def test_what_one_has_acknowledged_is_in_the_next_answer_of_the_other(
    pair: tuple[EventRecorder, EventRecorder],
) -> None:
    expected: list[str] = []
    for n in range(20):
        writer, reader = pair if n % 3 else pair[::-1]
        assert await items(reader) == expected
        await writer.record([event(f"e{n}", item_key=str(n))])
        expected.append(str(n))
        assert await items(reader) == await items(writer) == expected
    assert pair[0].log_id == pair[1].log_id


async def test_an_event_is_recorded_once_whoever_gets_it(pair: tuple[EventRecorder, EventRecorder]) -> None:
    assert await pair[0].record([event("a")]) == 1
    assert await pair[1].record([event("a"), event("b")]) == 1
    assert len(await pair[0].of("7")) == 2


async def test_more_new_events_than_the_loop_looks_at_are_all_seen(
    pair: tuple[EventRecorder, EventRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_MAX_SEEN", 3)
    for n in (1, 2, 3, 4, 10):
        assert await items(pair[1], str(n)) == []
        await pair[0].record([event(f"{n}-{k}", user_key=str(k), item_key=str(n)) for k in range(1, n + 1)])
        assert (await items(pair[1], str(n)), await items(pair[1], "0")) == ([str(n)], [])


async def test_what_is_recorded_while_the_store_is_read_is_not_forgotten(path: Path) -> None:
    """The other process commits, and a request for another user looks, between the read and its end."""
    other = SQLiteEventStore(path)

    class Overtaken(SQLiteEventStore):
        def events_of(self, user_key: str, after: int) -> tuple[RecordedEvent, ...]:
            found = super().events_of(user_key, after)
            if not overtaken:
                overtaken.append(user_key)
                other.append([[event("late", item_key="11")]])
                asyncio.run_coroutine_threadsafe(recorder.of("8"), loop).result()
            return found

    overtaken: list[str] = []
    loop, recorder = asyncio.get_running_loop(), EventRecorder(Overtaken(path), PATIENT)
    await recorder.record([event("early")])
    await recorder.of("7")
    assert overtaken == ["7"]
    assert await items(recorder) == ["10", "11"]
    recorder.close()
    other.close()


def test_one_that_writes_all_the_time_lets_the_other_have_its_turn(path: Path) -> None:
    started, done = threading.Event(), threading.Event()

    def write_all_the_time() -> None:
        connection = open_events(path)
        while not done.is_set():
            with sqlite.turn(path), sqlite.transaction(connection):
                started.set()
                done.wait(0.005)
        connection.close()

    greedy = threading.Thread(target=write_all_the_time)
    greedy.start()
    store = SQLiteEventStore(path)
    try:
        assert started.wait(PATIENCE_SECONDS)
        assert [store.append([[event(f"e{n}")]]) for n in range(COMMITS)] == [[1]] * COMMITS
    finally:
        done.set()
        greedy.join()
        store.close()


def test_processes_that_create_the_file_at_once_agree_on_it(path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(PROCESSES)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    names = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * PROCESSES
    assert len(set(names)) == 1
    assert len(names[0].strip()) == 32
