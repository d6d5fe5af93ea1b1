"""What a disk, a lock or a thread that is stuck may cost: the recorded events of some answers, and nobody's time."""

from __future__ import annotations

import asyncio
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gateway.events import reads as reading
from gateway.events.reads import Reads
from gateway.events.recorder import EventLimits, EventRecorder
from gateway.events.remembered import RememberedEvents
from gateway.events.sqlite_store import SQLiteEventStore
from gateway.events.store import MAX_RECORDED, Event, RecordedEvent
from gateway.events.writer import BatchWriter
from recsys.domain import EventType
from recsys.errors import DeadlinePassed, Unreachable
from tests.waiting import PATIENCE_SECONDS, eventually, soon

HOLD = """
import sys, time
from pathlib import Path
from gateway.events import sqlite
with sqlite.turn(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def event(event_id: str, *, user_key: str = "7", item_key: str = "10") -> Event:
    return Event(event_id, "", user_key, item_key, None, None, EventType.VIEW, None, 100, 100)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite"


@pytest.fixture
def store(path: Path) -> SQLiteEventStore:
    return SQLiteEventStore(path)


@pytest.fixture
def holder(store: SQLiteEventStore, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that was stopped in its turn to write the file."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGSTOP)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


async def test_a_writer_that_cannot_have_its_turn_costs_a_time_limit_and_no_event(
    store: SQLiteEventStore, holder: subprocess.Popen[str]
) -> None:
    recorder = EventRecorder(store, EventLimits(0.1, PATIENCE_SECONDS))
    started = time.perf_counter()
    with pytest.raises(Unreachable, match=r"not known after 0\.1 s .* send the same events again"):
        await recorder.record([event("a")])
    assert time.perf_counter() - started >= 0.1
    assert await recorder.of("7") == ()
    holder.kill()
    await soon(lambda: store.last_row_id() == 1, "the event that waited is recorded")
    recorder._write_seconds = PATIENCE_SECONDS
    assert await recorder.record([event("a")]) == 0
    assert [recorded.item_key for recorded in await recorder.of("7")] == ["10"]
    recorder.close()


async def test_reads_that_are_stuck_end_in_time_and_further_ones_at_once() -> None:
    released, reads = threading.Event(), Reads(0.05)
    stuck = [reads.run(lambda: released.wait(PATIENCE_SECONDS)) for _ in range(3 * reading._THREADS)]
    outcomes = await asyncio.gather(*stuck, return_exceptions=True)
    assert all(isinstance(outcome, DeadlinePassed) for outcome in outcomes)
    with pytest.raises(DeadlinePassed, match="reads of the disk are stuck"):
        await reads.run(lambda: 1)
    released.set()
    await soon(lambda: not reads._late, "the threads are free")
    reads._seconds = PATIENCE_SECONDS
    assert await reads.run(lambda: 1) == 1
    reads.close()


async def test_nothing_of_the_store_is_read_for_a_request_where_nothing_is_new(path: Path) -> None:
    looks: list[int] = []

    class Watched(SQLiteEventStore):
        def recorded_since(self, row_id: int, limit: int) -> Sequence[tuple[int, str]]:
            looks.append(threading.get_ident())
            return super().recorded_since(row_id, limit)

    recorder = EventRecorder(Watched(path), EventLimits(PATIENCE_SECONDS, PATIENCE_SECONDS))
    await recorder.record([event("a")])
    for user in "7878":
        await recorder.of(user)
    recorder.close()
    assert len(looks) == 1
    assert threading.get_ident() not in looks


async def test_only_the_newest_events_later_than_the_bundle_are_read(store: SQLiteEventStore) -> None:
    recorder = EventRecorder(store, EventLimits(PATIENCE_SECONDS, PATIENCE_SECONDS))
    last = MAX_RECORDED + 5
    await recorder.record([event(f"e{n}") for n in range(last)])
    for after, first in ((0, 6), (last - 3, last - 2), (last, last + 1), (0, 6)):
        assert [recorded.row_id for recorded in await recorder.of("7", after=after)] == [*range(first, last + 1)]
    recorder.close()


def test_what_is_remembered_is_bounded_by_its_events() -> None:
    remembered, events = RememberedEvents(10, 5), tuple(RecordedEvent(n, "10", 1, None, 100) for n in range(3))
    for user in "abc":
        remembered.end(user, remembered.begin(user, 0), events)
    assert [remembered.of(user, 0) for user in "abc"] == [None, None, events]
    remembered.forget("c")
    assert len(remembered) == 0
    remembered.end("d", remembered.begin("d", 0), events)
    assert remembered.of("d", 0) == events
    assert remembered.of("d", 1) is None


async def test_a_write_that_ends_in_an_error_of_ours_is_answered_and_the_next_one_works(path: Path) -> None:
    errors = [RuntimeError("a bug")]

    class Broken(SQLiteEventStore):
        def append(self, batches: Sequence[Sequence[Event]]) -> list[int]:
            if errors:
                raise errors.pop()
            return super().append(batches)

    recorder = EventRecorder(Broken(path), EventLimits(PATIENCE_SECONDS, PATIENCE_SECONDS))
    with pytest.raises(Unreachable, match="a bug"):
        await recorder.record([event("a")])
    assert await recorder.record([event("a")]) == 1
    recorder.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_died_is_replaced() -> None:
    written: list[str] = []
    failed: list[str] = []

    def write(batch: Sequence[str]) -> None:
        if "fatal" in batch:
            raise SystemExit
        written.extend(batch)

    writer = BatchWriter("test", write, lambda batch, _: failed.extend(batch), queue.Queue(), 1)
    writer.put("fatal")
    eventually(lambda: not writer._thread.is_alive(), "the thread has died")
    writer.put("next")
    assert writer.close()
    assert (failed, written) == (["fatal"], ["next"])


def test_a_process_that_died_before_counting_its_commit_is_made_up_for(path: Path) -> None:
    """Whoever opens the file, or writes, counts; so nothing that was acknowledged afterwards is missed."""
    first = SQLiteEventStore(path)
    before = first.commits()
    second = SQLiteEventStore(path)
    assert first.commits() == second.commits() == before + 1
    second.append([[event("a")]])
    second.append([[event("a")]])
    assert first.commits() == before + 3
    assert Path(f"{path}-commits").stat().st_mode & 0o777 == 0o600
    first.close()
    second.close()
