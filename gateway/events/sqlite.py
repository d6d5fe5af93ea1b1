"""SQLite files that processes append to in turn and others read: write-ahead log, one schema version, clear errors."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import CannotStart, Unreachable

_BUSY_SECONDS = 2.0
_LOCK_SUFFIX = "-lock"


def connect(
    path: Path, *, schema: str, version: int, synchronous: str, oldest: int | None = None
) -> sqlite3.Connection:
    """Opens or creates a file. `synchronous` is FULL (a commit survives a power cut) or NORMAL (the file stays sound).

    Only its owner may read a new file, because it says what people did; the -wal, -shm and -lock files next to it get
    the same rights.

    `schema` is run on a new file and, if `oldest` is given, on files of version `oldest` and later: it must add what
    they lack and leave the rest as it is.

    Raises:
        CannotStart: the file cannot be opened, is not a database, or has another schema version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        with turn(path):  # of several processes that open a new file at once, each sees the schema or none
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={synchronous}")
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found == 0 or (oldest is not None and oldest <= found < version):
                connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version={version}; COMMIT")
                found = version
    except (sqlite3.Error, OSError) as error:
        raise CannotStart(
            f"{path}: cannot be opened ({error}); free disk space, fix the permissions or name another file"
        ) from error
    if found != version:
        raise CannotStart(f"{path}: schema {found}, this software writes schema {version}; name another file")
    return connection


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Waits until no other gateway process writes the file; the lock is that of a file next to it, and ends with us.

    SQLite's own lock is polled, with pauses: of two processes that write all the time one would never get it.
    """
    lock = os.open(f"{path}{_LOCK_SUFFIX}", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, path.stat().st_mode)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commits what is written meanwhile, or, if anything raises, none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Opens a file that another program writes, without creating or changing it. Raises sqlite3.Error."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def unwritten(path: Path, error: sqlite3.Error | OSError) -> Unreachable:
    """The error for a write that did not happen."""
    return Unreachable(f"{path}: not written ({error}); nothing was recorded, send the same request again later")


def unreadable(path: Path, error: sqlite3.Error) -> Unreachable:
    """The error for a read that failed."""
    return Unreachable(f"{path}: not read ({error}); check the disk, or restore the file")
