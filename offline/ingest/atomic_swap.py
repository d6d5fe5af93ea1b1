"""Replaces a folder of tables as a whole: readers see the old one or the new one, and a failed job changes nothing.

`tables` is a symbolic link to `tables.000007`; a job writes under a temporary name, syncs, renames, and swaps the link.
The version before stays, for readers that still have it open.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import DataError


@contextmanager
def new_version(tables: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `tables` when the block ends well; otherwise it is removed.

    Raises DataError where another process is writing the same tables.
    """
    tables.parent.mkdir(parents=True, exist_ok=True)
    with _locked(tables):
        for stale in tables.parent.glob(f".{tables.name}.new-*"):
            shutil.rmtree(stale)
        folder = tables.parent / f".{tables.name}.new-{os.getpid()}"
        folder.mkdir()
        try:
            yield folder
            sync_folder(folder)
            _publish(folder, tables)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(tables: Path) -> Iterator[None]:
    with (tables.parent / f".{tables.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{tables}: another ingest is writing these tables; wait until it has ended") from error
        yield


def sync_folder(folder: Path) -> None:
    """Forces every file of a folder, and the folder itself, to disk."""
    for path in (*(file for file in folder.iterdir() if file.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def versions(tables: Path) -> list[Path]:
    """The versions on disk, oldest first."""
    pattern = re.compile(re.escape(tables.name) + r"\.([0-9]{6,})")
    return sorted(path for path in tables.parent.glob(f"{tables.name}.*") if pattern.fullmatch(path.name))


def _publish(folder: Path, tables: Path) -> None:
    old = versions(tables)
    number = int(old[-1].name.rsplit(".", 1)[-1]) + 1 if old else 1
    if tables.is_dir() and not tables.is_symlink():
        adopted = tables.with_name(f"{tables.name}.{number:06d}")
        tables.rename(adopted)
        old, number = [*old, adopted], number + 1
    target = tables.with_name(f"{tables.name}.{number:06d}")
    folder.rename(target)
    link = tables.with_name(f".{tables.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    link.replace(tables)
    sync_folder(tables.parent)
    for outdated in old[:-1]:
        shutil.rmtree(outdated)
