"""Reading the gateway's real event table while the gateway may be writing."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.events.sqlite_store import append_events, log_id, open_events
from gateway.events.store import Event
from offline.ingest import event_log as recorded
from offline.ingest.event_log import RecordedEvents
from recsys.domain import EventType
from recsys.errors import DataMalformed, DataMissing


def event(number: int, *, user: str = "anna", item: str = "7", value: float | None = 4.5) -> Event:
    """The event with this number; its time runs against the order of recording."""
    return Event(f"e{number}", "r", user, item, None, None, EventType.RATING, value, 2_000 - number, 2_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events" / "events.sqlite"


@pytest.fixture
def gateway(path: Path) -> Iterator[sqlite3.Connection]:
    """The gateway's own connection: open, and in write-ahead mode."""
    connection = open_events(path)
    yield connection
    connection.close()


def _rows(events: RecordedEvents, **span: int) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for table in events.batches(**span) for row in table.to_pylist()]


def test_rows_are_in_the_order_of_recording(path: Path, gateway: sqlite3.Connection) -> None:
    append_events(gateway, [[event(1), event(2, user="12", item="film-ü", value=None)], [event(3, value=0.0)]])
    events = RecordedEvents(path)
    assert events.last_row() == 3
    assert _rows(events, after=0, until=3) == [
        ("anna", "7", EventType.RATING, 4.5, 1_999),
        ("12", "film-ü", EventType.RATING, None, 1_998),
        ("anna", "7", EventType.RATING, 0.0, 1_997),
    ]


def test_a_span_excludes_its_start_and_includes_its_end(path: Path, gateway: sqlite3.Connection) -> None:
    append_events(gateway, [[event(number, item=str(number)) for number in range(1, 7)]])
    events = RecordedEvents(path)
    assert [row[1] for row in _rows(events, after=2, until=4)] == ["3", "4"]
    assert _rows(events, after=6, until=6) == []


def test_what_the_gateway_commits_meanwhile_is_left_for_the_next_time(path: Path, gateway: sqlite3.Connection) -> None:
    append_events(gateway, [[event(1)]])
    events = RecordedEvents(path)
    last = events.last_row()
    append_events(gateway, [[event(2)]])
    assert len(_rows(events, after=0, until=last)) == 1
    assert events.last_row() == 2


def test_an_event_that_came_twice_is_one_row(path: Path, gateway: sqlite3.Connection) -> None:
    append_events(gateway, [[event(1)], [event(1), event(2)]])
    events = RecordedEvents(path)
    assert len(_rows(events, after=0, until=events.last_row())) == 2


def test_batches_are_bounded_and_lose_nothing(path: Path, gateway: sqlite3.Connection) -> None:
    n = recorded.BATCH_ROWS + 3
    append_events(gateway, [[event(number, item=str(number)) for number in range(1, n + 1)]])
    tables = list(RecordedEvents(path).batches(after=0, until=n))
    assert [table.num_rows for table in tables] == [recorded.BATCH_ROWS, 3]
    assert tables[1]["item_key"].to_pylist() == [str(n - 2), str(n - 1), str(n)]
    assert math.isfinite(tables[0]["value"][0].as_py())


def test_an_empty_table_has_no_rows(path: Path, gateway: sqlite3.Connection) -> None:
    events = RecordedEvents(path)
    assert events.last_row() == 0
    assert list(events.batches(after=0, until=0)) == []


def test_the_gateway_need_not_run(path: Path) -> None:
    connection = open_events(path)
    append_events(connection, [[event(1)]])
    connection.close()
    assert RecordedEvents(path).last_row() == 1


def test_a_missing_file_is_named_with_the_flag_that_names_another(path: Path) -> None:
    with pytest.raises(DataMissing, match=r"events\.sqlite: no recorded events there; .*--events-from"):
        RecordedEvents(path)
    assert not path.parent.exists()


def test_a_log_is_known_by_its_id_wherever_it_is(path: Path) -> None:
    connection = open_events(path)
    found = log_id(connection, path)
    connection.close()
    assert RecordedEvents(path).log_id() == found
    assert RecordedEvents(path.rename(path.with_name("moved"))).log_id() == found


def test_a_log_without_an_id_is_sent_to_the_gateway_first(path: Path) -> None:
    connection = open_events(path)
    connection.executescript("DROP TABLE log; PRAGMA user_version=1")
    connection.close()
    with pytest.raises(DataMalformed, match=r"events\.sqlite: .* without a log id; start the gateway on it once"):
        RecordedEvents(path).log_id()
    open_events(path).close()
    assert len(RecordedEvents(path).log_id()) == 32


@pytest.mark.parametrize("content", [b"", b"user,item\n", b"SQLite format 3\0 and then nothing"])
def test_another_kind_of_file_is_named(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataMalformed, match=r"events\.sqlite: not a file of recorded events"):
        RecordedEvents(path).last_row()
    with pytest.raises(DataMalformed, match=r"events\.sqlite: not a file of recorded events"):
        RecordedEvents(path).log_id()
    assert path.read_bytes() == content
