"""Files of events and answers: who may read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.events import sqlite

SCHEMA = "CREATE TABLE t (x INTEGER) STRICT"


@pytest.mark.parametrize("mode", [None, 0o640])
def test_a_new_file_is_its_owners_and_one_that_is_there_keeps_its_rights(mode: int | None, tmp_path: Path) -> None:
    """Whatever the umask, and so are its -wal, -shm and -lock files."""
    path = tmp_path / "events" / "events.sqlite"
    umask = os.umask(0)
    try:
        if mode is not None:
            path.parent.mkdir()
            path.touch()
            path.chmod(mode)
        connection = sqlite.connect(path, schema=SCHEMA, version=1, synchronous="FULL")
        connection.execute("INSERT INTO t VALUES (1)")
    finally:
        os.umask(umask)
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    connection.close()
    names = ("events.sqlite", "events.sqlite-wal", "events.sqlite-shm", "events.sqlite-lock")
    assert modes == dict.fromkeys(names, mode or 0o600)
