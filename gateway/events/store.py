"""What users did, as recorded: an event, and the contract of a store that keeps events durably."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recsys.domain import MAX_REQUEST_HISTORY

MAX_RECORDED = MAX_REQUEST_HISTORY
"""Recorded events of one user that an answer takes into account: the newest."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a user did with an item."""

    event_id: str
    request_id: str
    user_key: str
    item_key: str
    user_id: int | None
    item_id: int | None
    type: int
    value: float | None
    time: int
    received: int


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """What serving needs of a recorded event."""

    row_id: int
    item_key: str
    type: int
    value: float | None
    time: int


class EventStore(ABC):
    """Where recorded events are kept. One thread of each process appends; any thread may read meanwhile.

    Row ids ascend in the order of recording and are never used twice, but they mean something only within one log.
    """

    log_id: str
    """Which log the row ids belong to; it stays the same for as long as the log does."""

    @abstractmethod
    def append(self, batches: Sequence[Sequence[Event]]) -> list[int]:
        """Writes all batches at once, durably; returns how many events of each were new.

        An event whose id is known is not recorded again. Raises Unreachable: nothing of any batch was written.
        """

    @abstractmethod
    def events_of(self, user_key: str, after: int) -> tuple[RecordedEvent, ...]:
        """The last MAX_RECORDED events of one user later than row `after`, in order of recording.

        Raises Unreachable.
        """

    @abstractmethod
    def users_with_events(self) -> Iterator[str]:
        """The keys of all users who have events; raises Unreachable."""

    @abstractmethod
    def last_row_id(self) -> int:
        """Row id of the last event that any process has recorded, 0 if there is none; raises Unreachable."""

    @abstractmethod
    def recorded_since(self, row_id: int, limit: int) -> Sequence[tuple[int, str]]:
        """Row id and user key of the first `limit` events after row `row_id`, in order; raises Unreachable.

        Whatever any process has acknowledged is among them.
        """

    @abstractmethod
    def commits(self) -> int:
        """A number that grows with every commit of any process, before anything in it is acknowledged.

        Called for every request, on the event loop: it never touches the disk, and cannot fail.
        """

    @abstractmethod
    def close(self) -> None:
        """Releases the store; nothing is called afterwards."""
