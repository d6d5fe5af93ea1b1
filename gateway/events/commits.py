"""How often an events file was committed to, in memory that its processes share: what tells them of new events."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

_BYTES = 8
_SUFFIX = "-commits"


class Commits:
    """A count in a file of 8 bytes next to the events file. It is aligned, so it is read and written in one piece."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file next to `path`; raises OSError, also if the disk is full."""
        file = os.open(f"{path}{_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, path.stat().st_mode)
        try:
            os.posix_fallocate(file, 0, _BYTES)  # without a block, counting on a full disk would end the process
            self._memory = mmap.mmap(file, _BYTES)
        finally:
            os.close(file)
        self._count = memoryview(self._memory).cast("q")

    def count(self) -> int:
        """What all processes have counted."""
        return int(self._count[0])

    def add(self) -> None:
        """Counts a commit; only who has the file's turn may do so."""
        self._count[0] += 1

    def close(self) -> None:
        """Releases the memory."""
        self._count.release()
        self._memory.close()
