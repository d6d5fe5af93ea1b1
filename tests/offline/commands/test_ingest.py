"""`offline ingest`: raw files are read; recorded events only where they are asked for."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from gateway.events.sqlite_store import append_events as record_events
from gateway.events.sqlite_store import open_events
from gateway.events.store import Event
from offline.commands.ingest import IngestConfig, ingest
from offline.dataset.tables import read_table
from recsys.domain import EventType
from recsys.errors import DataMissing


@pytest.fixture
def config(tmp_path: Path) -> IngestConfig:
    """A data set of one's own with two ratings."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "interactions.csv").write_text("user,item,timestamp,rating\nanna,7,1000,4\nbert,8,1001,2\n")
    arguments = ["--dataset", "shop", "--data-dir", str(raw), "--root", str(tmp_path / "data")]
    return IngestConfig.from_arguments(arguments, "offline ingest")


def _record(path: Path) -> None:
    """One view, recorded as a gateway does that stops afterwards."""
    event = Event("anna-8", "", "anna", "8", None, None, EventType.VIEW, None, 1002, 1002)
    with closing(open_events(path)) as connection:
        record_events(connection, [[event]])


def _times(config: IngestConfig) -> list[int]:
    return list(read_table(config.tables, "ratings")["timestamp"].to_pylist())


def test_events_are_appended_with_the_flag_only(config: IngestConfig) -> None:
    _record(config.events_file)
    ingest(config)
    assert _times(config) == [1000, 1001]
    ingest(config.model_copy(update={"events": True}))
    assert _times(config) == [1000, 1001, 1002]


def test_naming_the_events_is_asking_for_them(config: IngestConfig, tmp_path: Path) -> None:
    elsewhere = tmp_path / "volume/events.sqlite"
    _record(elsewhere)
    ingest(config.model_copy(update={"events_from": elsewhere}))
    assert _times(config) == [1000, 1001, 1002]


def test_events_that_were_never_recorded_are_missing(config: IngestConfig) -> None:
    with pytest.raises(DataMissing, match="no recorded events there"):
        ingest(config.model_copy(update={"events": True}))
    assert _times(config) == [1000, 1001]
