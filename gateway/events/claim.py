"""Whose events file it is: one gateway's, with all its workers, for as long as one of them runs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from gateway.events import sqlite
from recsys.errors import CannotStart

_SUFFIX = "-gateway"
_MAX_NAME = 512
"""Bytes of a name that are read."""


class Claim:
    """A shared lock of the file next to the events file that holds the gateway's name; it ends with the process."""

    def __init__(self, path: Path, gateway: str) -> None:
        """`gateway`: what only workers of the same gateway have in common.

        Raises:
            CannotStart: a process of another gateway uses the events file at `path`, or the lock cannot be had.
        """
        try:
            self._file = os.open(f"{path}{_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, path.stat().st_mode)
            with sqlite.turn(path):  # from an exclusive lock to a shared one is two steps
                owner = self._take(gateway)
        except OSError as error:
            raise CannotStart(f"{path}: cannot be locked ({error}); fix the permissions") from error
        if owner != gateway:
            self.release()
            raise CannotStart(
                f"{path}: gateway {owner} records there; stop it, give both the same --shared-port if they are workers "
                "of one gateway, or name another --events-file"
            )

    def _take(self, gateway: str) -> str:
        """Takes the lock if the file is free or `gateway`'s; returns whose it is."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._file, _MAX_NAME, 0).decode("utf-8", "replace")
            if owner != gateway:
                return owner
        else:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, gateway.encode(), 0)
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return gateway

    def release(self) -> None:
        """Leaves the file to others."""
        os.close(self._file)
