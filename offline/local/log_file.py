"""Log files of supervised programs: the programs append to them, the supervisor keeps them small."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 20_000_000
"""A log file that has grown beyond is moved to a backup, of which there is one."""

_END_BYTES = 64 << 10


def log_file(folder: Path, name: str) -> Path:
    """The log file of the program `name`."""
    return folder / f"{name}.log"


def open_to_append(path: Path, complain: Callable[[str], None]) -> int:
    """A descriptor of the log file, or of /dev/null where it cannot be opened: a server needs no logs to serve.

    `complain` gets a line about what is wrong.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        complain(f"{path}: {error.strerror}; the server runs without a log until its next start")
        return os.open(os.devnull, os.O_WRONLY)


def last_lines(path: Path, n: int) -> str:
    """The last `n` lines of a log file, of its last 64 KiB; or why there are none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES))
            text = file.read(_END_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return f"no log ({error.strerror})"
    return "\n".join(text.splitlines()[-n:]) or "no output yet"


def limit_size(path: Path, complain: Callable[[str], None], max_bytes: int = MAX_BYTES) -> None:
    """Copies a log file that is too large to `NAME.log.1` and empties it: its writers keep it open.

    Lines that are written between the two are lost; so is the copy where the disk has no room for it.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return
        backup = path.with_name(f"{path.name}.1")
        try:
            shutil.copyfile(path, backup)
        except OSError as error:
            complain(f"{backup}: {error.strerror}; the log is emptied without a copy")
            with suppress(OSError):
                backup.unlink(missing_ok=True)
        os.truncate(path, 0)
    except FileNotFoundError:
        return
    except OSError as error:
        complain(f"{path}: {error.strerror}; the log grows")
