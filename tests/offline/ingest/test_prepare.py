"""Raw files are read again only where they changed, and what the gateway recorded stays in the tables."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.events.sqlite_store import append_events as record_events
from gateway.events.sqlite_store import open_events
from gateway.events.store import Event
from offline.dataset.tables import read_table
from offline.ingest.event_log import RecordedEvents
from offline.ingest.inputs import IngestInputs
from offline.ingest.prepare import SOURCE_FILE, append_events, prepare_tables, tables_step
from offline.ingest.report import REPORT, UNNAMED_LOG, IngestReport
from recsys.domain import EventType
from recsys.errors import DataMalformed, DataMissing

INTERACTIONS = "user,item,timestamp,rating\nanna,7,1000,4\nbert,8,1001,2\n"
ITEMS = "id,title\n7,Alien\n8,Brazil\n"


@pytest.fixture
def inputs(tmp_path: Path) -> IngestInputs:
    """A data set of one's own, with its raw files."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "interactions.csv").write_text(INTERACTIONS)
    (raw / "items.csv").write_text(ITEMS)
    return IngestInputs("shop", tmp_path / "data", raw)


@pytest.fixture
def record(inputs: IngestInputs) -> Callable[..., None]:
    """Records a view as a gateway does that stops afterwards."""

    def write(user: str, item: str, time: int, *, path: Path = inputs.events_file) -> None:
        event = Event(f"{user}-{item}-{time}", "", user, item, None, None, EventType.VIEW, None, time, time)
        with closing(open_events(path)) as connection:
            record_events(connection, [[event]])

    return write


def _ratings(inputs: IngestInputs) -> list[tuple[str, int, int]]:
    users = {row["user_id"]: row["user_key"] for row in read_table(inputs.tables, "users").to_pylist()}
    rows = read_table(inputs.tables, "ratings").to_pylist()
    return [(users[row["user_id"]], row["item_id"], row["timestamp"]) for row in rows]


def _touch(path: Path) -> None:
    """Another time of change, as a copy of the same file has."""
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000_000))


def _raw(inputs: IngestInputs) -> Path:
    assert inputs.data_dir is not None
    return inputs.data_dir / "interactions.csv"


def test_unchanged_files_are_not_read_again(inputs: IngestInputs) -> None:
    first = prepare_tables(inputs)
    assert _ratings(inputs) == [("anna", 7, 1000), ("bert", 8, 1001)]
    again = prepare_tables(inputs)
    assert (first.reused, again.reused) == (False, True)
    assert (again.key, again.folder) == (first.key, first.folder)
    assert first.folder.name == "tables.000001"


def test_a_changed_file_is_read_again(inputs: IngestInputs) -> None:
    first = prepare_tables(inputs)
    _raw(inputs).write_text(INTERACTIONS + "carl,7,1002,5\n")
    changed = prepare_tables(inputs)
    assert changed.reused is False
    assert changed.key != first.key
    assert _ratings(inputs)[-1] == ("carl", 7, 1002)
    assert prepare_tables(inputs).reused is True


def test_files_are_read_again_when_the_code_that_reads_them_changes(
    inputs: IngestInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_tables(inputs)
    monkeypatch.setattr("offline.ingest.prepare._code", lambda: "edited")
    changed = prepare_tables(inputs)
    assert changed.reused is False
    assert changed.key != first.key
    assert prepare_tables(inputs).reused is True


def test_an_added_file_is_read(inputs: IngestInputs) -> None:
    assert inputs.data_dir is not None
    (inputs.data_dir / "items.csv").unlink()
    prepare_tables(inputs)
    (inputs.data_dir / "items.csv").write_text(ITEMS)
    assert prepare_tables(inputs).reused is False
    assert read_table(inputs.tables, "items")["title"].to_pylist() == ["Alien", "Brazil"]


def test_the_same_content_read_again_is_the_same_input(inputs: IngestInputs) -> None:
    """A fresh copy of the files costs an ingest, but nothing is trained again."""
    first = prepare_tables(inputs)
    _touch(_raw(inputs))
    copied = prepare_tables(inputs)
    assert (copied.reused, copied.key) == (False, first.key)


def test_another_limit_of_bad_lines_reads_again(inputs: IngestInputs) -> None:
    _raw(inputs).write_text(INTERACTIONS + "carl,7,noon,5\n")
    with pytest.raises(DataMalformed, match=r"interactions\.csv:4"):
        prepare_tables(inputs)
    patient = replace(inputs, max_bad_lines=1)
    assert prepare_tables(patient).reused is False
    assert prepare_tables(replace(inputs, max_bad_lines=2)).reused is False


def test_tables_stay_where_the_changed_files_cannot_be_used(inputs: IngestInputs) -> None:
    before = prepare_tables(inputs)
    _raw(inputs).write_text("user,item\n")
    for _ in range(2):  # the second time, too: a failure is not remembered as "read"
        with pytest.raises(DataMissing, match="timestamp"):
            prepare_tables(inputs)
    assert _ratings(inputs) == [("anna", 7, 1000), ("bert", 8, 1001)]
    assert tables_step(inputs, reused=True).key == before.key


def test_an_ingest_that_was_cut_off_is_done_again(inputs: IngestInputs) -> None:
    prepare_tables(inputs)
    (inputs.home / SOURCE_FILE).unlink()
    assert prepare_tables(inputs).reused is False


def test_demo_needs_no_files_and_is_made_once(tmp_path: Path) -> None:
    demo = IngestInputs("demo", tmp_path)
    assert prepare_tables(demo).reused is False
    assert prepare_tables(demo).reused is True
    looked_at = json.loads((demo.home / SOURCE_FILE).read_text())["files"]
    assert {Path(name).name for name in looked_at} >= {"world.py", "catalogue.py"}


def test_recorded_events_are_appended_once(inputs: IngestInputs, record: Callable[..., None]) -> None:
    before = prepare_tables(inputs)
    record("anna", "8", 1002)
    record("dora", "9", 1000)
    report = append_events(inputs, inputs.events_file)
    assert (report.appended, list(report.events_watermarks.values())) == (2, [2])
    assert _ratings(inputs) == [("anna", 7, 1000), ("dora", 9, 1000), ("bert", 8, 1001), ("anna", 8, 1002)]
    after = tables_step(inputs, reused=True)
    assert after.key != before.key
    assert append_events(inputs, inputs.events_file) == IngestReport.load(inputs.tables) == report
    assert tables_step(inputs, reused=True) == after


def test_only_events_later_than_the_watermark_are_appended(inputs: IngestInputs, record: Callable[..., None]) -> None:
    prepare_tables(inputs)
    record("anna", "8", 1002)
    append_events(inputs, inputs.events_file)
    record("bert", "7", 1003)
    report = append_events(inputs, inputs.events_file)
    assert (report.appended, list(report.events_watermarks.values())) == (2, [2])
    assert _ratings(inputs)[2:] == [("anna", 8, 1002), ("bert", 7, 1003)]


def test_appending_leaves_the_raw_files_unread(inputs: IngestInputs, record: Callable[..., None]) -> None:
    prepare_tables(inputs)
    record("anna", "8", 1002)
    append_events(inputs, inputs.events_file)
    assert prepare_tables(inputs).reused is True
    assert ("anna", 8, 1002) in _ratings(inputs)


def test_reading_changed_files_keeps_the_recorded_events(inputs: IngestInputs, record: Callable[..., None]) -> None:
    prepare_tables(inputs)
    record("anna", "8", 1002)
    append_events(inputs, inputs.events_file)
    record("bert", "7", 1003)
    _raw(inputs).write_text(INTERACTIONS + "carl,7,1004,5\n")
    prepare_tables(inputs)
    assert _ratings(inputs)[2:] == [("anna", 8, 1002), ("bert", 7, 1003), ("carl", 7, 1004)]
    assert list(IngestReport.load(inputs.tables).events_watermarks.values()) == [2]
    assert IngestReport.load(inputs.tables).appended == 2


def test_events_survive_an_ingest_that_was_cut_off(inputs: IngestInputs, record: Callable[..., None]) -> None:
    """The raw files were read, but the events' file could not be: the next run appends them."""
    prepare_tables(inputs)
    record("anna", "8", 1002)
    append_events(inputs, inputs.events_file)
    _touch(_raw(inputs))
    away = inputs.events_file.rename(inputs.events_file.with_suffix(".away"))
    inputs.events_file.write_bytes(b"on a disk that fails")
    with pytest.raises(DataMalformed, match="not a file of recorded events"):
        prepare_tables(inputs)
    away.replace(inputs.events_file)
    prepare_tables(inputs)
    assert ("anna", 8, 1002) in _ratings(inputs)


def test_without_a_word_about_events_none_are_appended(inputs: IngestInputs, record: Callable[..., None]) -> None:
    record("anna", "8", 1002)
    prepare_tables(inputs)
    _touch(_raw(inputs))
    prepare_tables(inputs)
    assert IngestReport.load(inputs.tables).events_watermarks == {}
    assert len(_ratings(inputs)) == 2


def test_events_of_a_file_that_is_not_here_are_missed_aloud(
    inputs: IngestInputs, record: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_tables(inputs)
    elsewhere = tmp_path / "volume/events.sqlite"
    record("anna", "8", 1002, path=elsewhere)
    append_events(inputs, elsewhere)
    _touch(_raw(inputs))
    away = elsewhere.rename(tmp_path / "away.sqlite")
    with caplog.at_level(logging.WARNING):
        prepare_tables(inputs)
    assert "events up to row 1 of log" in caplog.text
    assert f"the log is not in {elsewhere} or {inputs.events_file}; append them with" in caplog.text
    assert "ingest --events-from FILE" in caplog.text
    assert IngestReport.load(inputs.tables).events_watermarks == {}
    assert append_events(inputs, away).appended == 1


def test_two_gateways_lose_no_event_and_none_counts_twice(
    inputs: IngestInputs, record: Callable[..., None], tmp_path: Path
) -> None:
    """The second file's row ids begin at 1 again, below the watermark of the first."""
    first, second = tmp_path / "a/events.sqlite", tmp_path / "b/events.sqlite"
    for moment in (1002, 1003, 1004):
        record("anna", "8", moment, path=first)
    record("bert", "7", 1005, path=second)
    record("anna", "8", 1002, path=second)  # a client that sent to both
    prepare_tables(inputs)
    append_events(inputs, first)
    report = append_events(inputs, second)
    expected = [("anna", 8, 1002), ("anna", 8, 1003), ("anna", 8, 1004), ("bert", 7, 1005)]
    assert _ratings(inputs)[2:] == expected
    assert report.events_watermarks == {RecordedEvents(first).log_id(): 3, RecordedEvents(second).log_id(): 2}
    record("bert", "7", 1006, path=second)
    record("anna", "8", 1007, path=first)
    for file in (first, second, first, second):
        append_events(inputs, file)
    expected += [("bert", 7, 1006), ("anna", 8, 1007)]
    assert _ratings(inputs)[2:] == expected
    _touch(_raw(inputs))
    prepare_tables(inputs)
    assert _ratings(inputs)[2:] == expected
    assert list(IngestReport.load(inputs.tables).events_watermarks.values()) in ([4, 3], [3, 4])


def test_a_recreated_events_file_is_read_from_its_first_row(
    inputs: IngestInputs, record: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    prepare_tables(inputs)
    record("anna", "8", 1002)
    record("anna", "8", 1003)
    append_events(inputs, inputs.events_file)
    inputs.events_file.unlink()
    record("bert", "7", 1004)
    append_events(inputs, inputs.events_file)
    assert _ratings(inputs)[2:] == [("anna", 8, 1002), ("anna", 8, 1003), ("bert", 7, 1004)]
    _touch(_raw(inputs))
    with caplog.at_level(logging.WARNING):
        prepare_tables(inputs)
    assert _ratings(inputs)[2:] == [("bert", 7, 1004)]
    assert "events up to row 2 of log" in caplog.text


def test_a_moved_events_file_is_the_same_log(inputs: IngestInputs, record: Callable[..., None], tmp_path: Path) -> None:
    prepare_tables(inputs)
    record("anna", "8", 1002)
    before = append_events(inputs, inputs.events_file)
    key = tables_step(inputs, reused=True).key
    moved = inputs.events_file.rename(tmp_path / "moved.sqlite")
    assert append_events(inputs, moved) == before
    _touch(_raw(inputs))
    assert prepare_tables(inputs).key == key
    assert ("anna", 8, 1002) in _ratings(inputs)


def test_an_older_copy_of_a_log_is_read_again(
    inputs: IngestInputs, record: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows recorded after a restore have numbers that the lost ones had."""
    prepare_tables(inputs)
    record("anna", "8", 1002)
    backup = shutil.copy(inputs.events_file, tmp_path / "backup.sqlite")
    for moment in (1003, 1004, 1005):
        record("anna", "8", moment)
    append_events(inputs, inputs.events_file)
    shutil.copy(backup, inputs.events_file)
    record("bert", "7", 1006)
    with caplog.at_level(logging.WARNING):
        report = append_events(inputs, inputs.events_file)
    assert "ends at row 2, the tables hold its log up to row 4: an older copy" in caplog.text
    assert [moment for _, _, moment in _ratings(inputs)[2:]] == [1002, 1003, 1004, 1005, 1006]
    assert list(report.events_watermarks.values()) == [2]


def test_tables_from_before_logs_had_ids_take_every_file_for_a_new_one(
    inputs: IngestInputs, record: Callable[..., None]
) -> None:
    prepare_tables(inputs)
    record("anna", "8", 1002)
    report = append_events(inputs, inputs.events_file)
    saved = inputs.tables / REPORT
    content = json.loads(saved.read_text())
    del content["events_watermarks"]
    saved.write_text(json.dumps(content | {"events_watermark": 1}))
    record("anna", "8", 1003)
    again = append_events(inputs, inputs.events_file)
    assert _ratings(inputs)[2:] == [("anna", 8, 1002), ("anna", 8, 1003)]
    assert again.events_watermarks == {UNNAMED_LOG: 1} | dict.fromkeys(report.events_watermarks, 2)


def test_events_that_a_fresh_export_holds_already_are_not_added_again(
    inputs: IngestInputs, record: Callable[..., None]
) -> None:
    prepare_tables(inputs)
    record("anna", "8", 1002)
    append_events(inputs, inputs.events_file)
    _raw(inputs).write_text("user,item,timestamp,type\nanna,7,1000,view\nanna,8,1002,view\n")
    prepare_tables(inputs)
    assert _ratings(inputs) == [("anna", 7, 1000), ("anna", 8, 1002)]
    assert list(IngestReport.load(inputs.tables).events_watermarks.values()) == [1]
