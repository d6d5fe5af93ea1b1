"""The recorded events of recent users in memory, until newer ones are noticed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.events.store import RecordedEvent


@dataclass(slots=True, eq=False)
class Reading:
    """A read of one user's events, later than row `after`; `events` is None until it has ended."""

    after: int
    events: tuple[RecordedEvent, ...] | None = None


class RememberedEvents:
    """Bounded by users and by events. Nothing in it waits for the disk; any thread may use it."""

    def __init__(self, max_users: int, max_events: int) -> None:
        self._readings: OrderedDict[str, Reading] = OrderedDict()
        self._max_users, self._max_events, self._events = max_users, max_events, 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._readings)

    def of(self, user_key: str, after: int) -> tuple[RecordedEvent, ...] | None:
        """The events of a user later than row `after`; None if they must be read."""
        with self._lock:
            found = self._readings.get(user_key)
            if found is None or found.after != after:
                return None
            self._readings.move_to_end(user_key)
            return found.events

    def begin(self, user_key: str, after: int) -> Reading:
        """Says that the events are about to be read: what is noticed from here on makes the read outdated."""
        reading = Reading(after)
        with self._lock:
            self._drop(user_key)
            self._readings[user_key] = reading
            self._shrink()
        return reading

    def end(self, user_key: str, reading: Reading, events: tuple[RecordedEvent, ...]) -> None:
        """Remembers what was read, unless newer events of the user were noticed meanwhile."""
        with self._lock:
            if self._readings.get(user_key) is reading:
                reading.events = events
                self._events += len(events)
                self._shrink()

    def forget(self, user_keys: Iterable[str]) -> None:
        """These users have newer events."""
        with self._lock:
            for user_key in user_keys:
                self._drop(user_key)

    def _shrink(self) -> None:
        while len(self._readings) > self._max_users or self._events > self._max_events:
            self._drop(next(iter(self._readings)))

    def _drop(self, user_key: str) -> None:
        dropped = self._readings.pop(user_key, None)
        if dropped is not None:
            self._events -= len(dropped.events or ())
