"""A process that loads a bundle says so in its name, which others can read while it cannot answer.

Libraries may hold Python's global lock for as long as they load a file: hnswlib does, about a second per million items.
Until then no thread of the process runs, so it answers no health check, and no message from it could say why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NAME = "recsys-loading"
"""Of at most 15 bytes; see proc_pid_comm(5)."""


@contextmanager
def announced() -> Iterator[None]:
    """The process bears `NAME` meanwhile; nothing happens where the system knows no such names."""
    name = Path("/proc/self/comm")
    try:
        before = name.read_text("utf-8").rstrip("\n")
        name.write_text(NAME, "utf-8")
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            name.write_text(before, "utf-8")


def is_loading(pid: int) -> bool:
    """Whether the process has announced that it loads; False where it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text("utf-8").strip() == NAME
    except (OSError, UnicodeDecodeError):
        return False
