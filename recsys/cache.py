"""A cache that is bounded by bytes: the values used last, as many as fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

ENTRY_BYTES = 1_024
"""What an entry costs besides its value, so that small values are bounded in number."""


class ByteLimitedCache(Generic[_Key, _Value]):
    """Values by key; the ones that were not used for longest are dropped first. Threads may share it.

    Values must not be changed: whoever asks next gets the same object.
    """

    def __init__(self, max_bytes: int, size: Callable[[_Value], int]) -> None:
        """`size`: bytes of a value."""
        self._max_bytes = max_bytes
        self._size = size
        self._values: OrderedDict[_Key, _Value] = OrderedDict()
        self._lock = Lock()
        self._bytes = 0

    @property
    def used_bytes(self) -> int:
        """Bytes of all entries; never above the limit."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        """The value of `key`; `make()` where there is none, which is kept unless it is larger than the limit.

        Two threads that miss at once both make the value, and both get the one that was kept.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Made outside the lock: a miss must not hold up the hits of other threads.
        made = make()
        cost = self._size(made) + ENTRY_BYTES
        if cost > self._max_bytes:
            return made
        with self._lock:
            if key in self._values:
                return self._values[key]
            self._values[key] = made
            self._bytes += cost
            while self._bytes > self._max_bytes:
                _, dropped = self._values.popitem(last=False)
                self._bytes -= self._size(dropped) + ENTRY_BYTES
        return made
