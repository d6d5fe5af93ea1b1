"""Items that must not be shown (rights, legal, stock): a text file, one item key or number per line, re-read live."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.bundle.resolve import Identities, check_key
from recsys.domain import NO_IDS, Ids
from recsys.errors import CannotStart, InvalidRequest

logger = logging.getLogger(__name__)


_Stamp = tuple[int, int, int]

_GUARDED = 10
"""Lists of fewer items may shrink at once: there, half of it is a change that somebody makes by hand."""


@dataclass(frozen=True, slots=True)
class _Version:
    """What the file held when it was read last, and is not in force yet."""

    stamp: _Stamp
    keys: tuple[str, ...]
    seen: float


class HiddenItems:
    """The hidden items; `refresh` is cheap while the file does not change.

    A line that starts with # is a comment. A broken line is logged and ignored. A file that cannot be read leaves the
    last valid list in force, and so does one that hides less than half of that list until it has stayed the same for a
    while: editors and copies may empty a file before they write it.
    """

    def __init__(
        self, path: Path | None, shrink_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Reads the file. Raises CannotStart if `path` does not exist: hiding nothing by mistake would be worse."""
        self._path, self._shrink_seconds, self._clock = path, shrink_seconds, clock
        self._stamp: _Stamp | None = None
        self._pending: _Version | None = None
        self._keys: tuple[str, ...] = ()
        self._problem = ""
        if path is not None and not path.is_file():
            raise CannotStart(f"{path}: no file of hidden items; create it (it may be empty) or unset hidden_items")
        self.refresh()

    @property
    def keys(self) -> tuple[str, ...]:
        """The hidden keys as written; a new object whenever the list has changed."""
        return self._keys

    def refresh(self) -> None:
        """Reads the file again if it has changed since the last time."""
        if self._path is None:
            return
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                self._pending = None
                return
            if self._pending is None or self._pending.stamp != stamp:
                self._pending = _Version(stamp, self._read(self._path.read_bytes()), self._clock())
        except OSError as error:
            self._log_problem(f"{self._path}: {error.strerror}; the last valid list of {len(self._keys)} items stays")
            return
        keys = self._pending.keys
        if self._is_too_small(keys) and self._clock() - self._pending.seen < self._shrink_seconds:
            self._log_problem(
                f"{self._path}: {len(keys)} hidden items instead of {len(self._keys)}; the last list stays unless "
                f"the file stays as it is for {self._shrink_seconds:g} s"
            )
            return
        self._keys, self._stamp, self._pending, self._problem = keys, stamp, None, ""
        logger.info("%s: %d hidden items", self._path, len(self._keys))

    def _is_too_small(self, keys: tuple[str, ...]) -> bool:
        return len(self._keys) >= _GUARDED and 2 * len(keys) < len(self._keys)

    def _read(self, content: bytes) -> tuple[str, ...]:
        keys = []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                text = line.decode("utf-8").strip()
                if text and not text.startswith("#"):
                    keys.append(check_key(text, "item key"))
            except (UnicodeDecodeError, InvalidRequest) as error:
                logger.warning("%s:%d: ignored: %s", self._path, number, error)
        return tuple(keys)

    def _log_problem(self, text: str) -> None:
        if text != self._problem:
            logger.warning("%s", text)
        self._problem = text


class HiddenIds:
    """The hidden items as item ids of one bundle; the pipeline calls it twice per batch."""

    def __init__(self, hidden: HiddenItems, identities: Identities) -> None:
        """Items that the bundle does not know are left out: it cannot recommend them anyway."""
        self._hidden = hidden
        self._identities = identities
        self._keys: tuple[str, ...] = ()
        self._ids = NO_IDS

    def __call__(self) -> Ids:
        """int64[n], ascending."""
        keys = self._hidden.keys
        if keys is not self._keys:
            numbers = [self._number(key) for key in keys]
            self._ids = np.unique(np.asarray([number for number in numbers if number is not None], np.int64))
            self._keys = keys
        return self._ids

    def _number(self, key: str) -> int | None:
        items = self._identities.items
        item = items.of_key(key)
        if item.id is None and key.isascii() and key.isdigit():
            item = items.of_number(int(key)) or item
        return item.id
