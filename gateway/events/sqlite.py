"""SQLite files that one writer appends to and others read: write-ahead log, one schema version, clear errors."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from recsys.errors import CannotStart, Unreachable

_BUSY_SECONDS = 2.0


def connect(
    path: Path, *, schema: str, version: int, synchronous: str, oldest: int | None = None
) -> sqlite3.Connection:
    """Opens or creates a file. `synchronous` is FULL (a commit survives a power cut) or NORMAL (the file stays sound).

    A new file is for its owner's eyes only, for it says what people did; its -wal and -shm get the rights that it has.

    `schema` is run on a new file and, where `oldest` is given, on one of a version from `oldest` on: it has to add what
    is missing there and leave the rest as it is.

    Raises:
        CannotStart: the file cannot be opened, is no database, or has another schema version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found == 0 or (oldest is not None and oldest <= found < version):
            connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version={version}; COMMIT")
            found = version
    except (sqlite3.Error, OSError) as error:
        raise CannotStart(
            f"{path}: cannot be opened ({error}); free the disk, fix the rights or name another"
        ) from error
    if found != version:
        raise CannotStart(f"{path}: schema {found}, this software writes schema {version}; name another file")
    return connection


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Opens a file that another program writes, without making or changing it. Raises sqlite3.Error."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def unwritten(path: Path, error: sqlite3.Error) -> Unreachable:
    """The error for a write that did not happen."""
    return Unreachable(f"{path}: not written ({error}); nothing was recorded, send the same request again later")


def unreadable(path: Path, error: sqlite3.Error) -> Unreachable:
    """The error for a read that failed."""
    return Unreachable(f"{path}: not read ({error}); check the disk, or restore the file")
