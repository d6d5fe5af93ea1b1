"""The nouns of the system, as plain values: no gRPC, no files, no clock.

Ids are `int64`; dense row numbers never leave a process. Times are Unix seconds. Histories run oldest first.
A `score` is finite, higher is better; equal scores are ordered by item id (see `recsys.ordering`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.ordering import distinct, has_repeats

Ids = NDArray[np.int64]
Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]

MAX_REQUEST_HISTORY = 2_000
"""Most events that a request may contain; stored histories are not limited."""


class EventType(IntEnum):
    """What a user did with an item; the numbers are those of `recsys.v1.EventType` and of `ratings.parquet`."""

    RATING = 1
    VIEW = 2
    CLICK = 3
    LIKE = 4
    DISLIKE = 5
    SAVE = 6
    IMPRESSION = 7


RATING = int(EventType.RATING)
"""For arrays: numpy looks up a dozen attributes on a member of an enumeration, which is slow."""


@dataclass(frozen=True, slots=True)
class EventSemantics:
    """What one event type means for recommendations."""

    counts_as_seen: bool
    """The item is not recommended to this user again."""
    weight: float
    """The weight of the event as evidence of taste; 0 is no evidence."""
    enters_sequence: bool
    """The event is part of the history that channels and the ranker see."""
    excludes: bool
    """The user asked not to see the item."""


EVENT_SEMANTICS: dict[EventType, EventSemantics] = {
    EventType.RATING: EventSemantics(counts_as_seen=True, weight=1.0, enters_sequence=True, excludes=False),
    EventType.VIEW: EventSemantics(counts_as_seen=True, weight=1.0, enters_sequence=True, excludes=False),
    EventType.CLICK: EventSemantics(counts_as_seen=False, weight=0.3, enters_sequence=True, excludes=False),
    EventType.LIKE: EventSemantics(counts_as_seen=True, weight=1.0, enters_sequence=True, excludes=False),
    EventType.DISLIKE: EventSemantics(counts_as_seen=False, weight=0.0, enters_sequence=False, excludes=True),
    EventType.SAVE: EventSemantics(counts_as_seen=False, weight=0.5, enters_sequence=True, excludes=False),
    EventType.IMPRESSION: EventSemantics(counts_as_seen=False, weight=0.0, enters_sequence=False, excludes=False),
}
"""The one table that training, evaluation and serving read. A later rating of an item replaces the earlier one."""


def _by_number(name: str) -> list[float]:
    """The column `name` of `EVENT_SEMANTICS`, indexed by event type number; 0 behaves as a rating."""
    return [getattr(EVENT_SEMANTICS[EventType(max(number, 1))], name) for number in range(len(EventType) + 1)]


_COUNTS_AS_SEEN = np.asarray(_by_number("counts_as_seen"), np.bool_)
_ENTERS_SEQUENCE = np.asarray(_by_number("enters_sequence"), np.bool_)
_NOT_AGAIN = _COUNTS_AS_SEEN | np.asarray(_by_number("excludes"), np.bool_)
_ONLY_EXCLUDES = _NOT_AGAIN & ~_ENTERS_SEQUENCE
EVENT_WEIGHTS = np.asarray(_by_number("weight"), np.float32)
"""float32[8]: weight by event type number."""


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What one user did, oldest first: four parallel arrays of length n. Compared by identity."""

    item_ids: Ids
    timestamps: Ids
    types: NDArray[np.int8]
    values: Scores
    """Rating or weight per event; NaN if the event has none."""

    @classmethod
    def empty(cls) -> History:
        """A history without events."""
        return cls.of([], [])

    @classmethod
    def of(
        cls,
        item_ids: Sequence[int] | Ids,
        timestamps: Sequence[int] | Ids,
        *,
        types: Sequence[int] | NDArray[np.int8] | None = None,
        values: Sequence[float] | Scores | None = None,
    ) -> History:
        """Builds a history from sequences; without `types` all are ratings, without `values` no event has one."""
        n = len(item_ids)
        return cls(
            np.asarray(item_ids, dtype=np.int64),
            np.asarray(timestamps, dtype=np.int64),
            np.full(n, RATING, np.int8) if types is None else np.asarray(types, dtype=np.int8),
            np.full(n, np.nan, np.float32) if values is None else np.asarray(values, dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, index: slice | Ids | Mask) -> History:
        """The events at `index`, in that order."""
        return History(self.item_ids[index], self.timestamps[index], self.types[index], self.values[index])

    def until(self, as_of: int) -> History:
        """The events at or before `as_of`."""
        n = int(np.searchsorted(self.timestamps, as_of, side="right"))
        return self if n == len(self) else self.take(slice(0, n))

    def last(self, n: int | None) -> History:
        """The `n` latest events; all of them if `n` is None."""
        return self if n is None or len(self) <= n else self.take(slice(len(self) - n, None))

    def then(self, later: History) -> History:
        """This history followed by `later`, in stable order of time."""
        if not len(later):
            return self
        joined = History(
            np.concatenate([self.item_ids, later.item_ids]),
            np.concatenate([self.timestamps, later.timestamps]),
            np.concatenate([self.types, later.types]),
            np.concatenate([self.values, later.values]),
        )
        return joined.take(np.argsort(joined.timestamps, kind="stable"))

    def sequence(self) -> History:
        """The events that are evidence of taste; a re-rating replaces the earlier rating of the same item."""
        enters = _ENTERS_SEQUENCE[self.types]
        kept = self if enters.all() else self.take(enters)
        ratings = np.flatnonzero(kept.types <= RATING)
        if not has_repeats(kept.item_ids[ratings]):
            return kept
        _, last_in_reverse = np.unique(kept.item_ids[ratings][::-1], return_index=True)
        latest = np.ones(len(kept), np.bool_)
        latest[ratings] = False
        latest[ratings[len(ratings) - 1 - last_in_reverse]] = True
        return kept.take(latest)

    def seen_item_ids(self) -> Ids:
        """Ids that must not be recommended again: seen, or excluded by the user. Ascending, unique."""
        return distinct(self.not_again_item_ids())

    def not_again_item_ids(self) -> Ids:
        """Like `seen_item_ids`, in the order of the events, with repeats."""
        return self.item_ids[_NOT_AGAIN[self.types]]

    def lost_in_sequence(self) -> Ids:
        """The part of `seen_item_ids` that `sequence` does not contain: what the user excluded. May repeat."""
        return self.item_ids[_ONLY_EXCLUDES[self.types]]


@dataclass(frozen=True, slots=True)
class ItemFilter:
    """Which items may be recommended, by attribute; the default allows all."""

    genres_any: tuple[str, ...] = ()
    genres_none: tuple[str, ...] = ()
    min_year: int | None = None
    max_year: int | None = None

    def __bool__(self) -> bool:
        return bool(self.genres_any or self.genres_none or self.min_year is not None or self.max_year is not None)


NO_IDS: Ids = np.empty(0, np.int64)
NO_FILTER = ItemFilter()


@dataclass(frozen=True, slots=True)
class RecallQuery:
    """One user's query to a recall channel."""

    history: History
    """The sequence (see `History.sequence`), as much of it as the channel declares to need."""
    as_of: int
    count: int
    exclude_item_ids: Ids = field(default_factory=lambda: NO_IDS)
    """Items that must not be returned: in any order, with or without repeats."""
    item_filter: ItemFilter = NO_FILTER
    preferred_genres: tuple[str, ...] = ()
    user_id: int | None = None
    request_id: str = ""
    """Of the request that caused the query, for the logs."""
    exclude_besides_history: Ids | None = None
    """What `exclude_item_ids` holds besides `history.not_again_item_ids()`, so that a sender of the history need not
    send those twice; None if they are not all excluded, or nobody knows."""


@dataclass(frozen=True, slots=True)
class RecallResult:
    """A channel's candidates for one query, best first: parallel arrays of length n ≤ count, ids unique."""

    item_ids: Ids
    scores: Scores
    seed_item_ids: Ids | None = None
    """The user's own past item that contributed most to each candidate; None if the channel has no seeds."""
    seed_present: Mask | None = None
    """Whether there is a seed at the same position."""

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Merged candidates of one request: n items, one column per channel that answered."""

    item_ids: Ids
    channels: tuple[str, ...]
    scores: NDArray[np.float32]
    """float32[n, channels]; meaningless if the rank is 0."""
    ranks: NDArray[np.int32]
    """int32[n, channels]; 1 is the channel's best, 0: not returned."""
    seed_item_ids: Ids
    """int64[n, channels]: the seed that the channel named, meaningless if `seed_present` is false."""
    seed_present: Mask
    """bool[n, channels]: whether the channel named a seed."""

    @classmethod
    def without_seeds(
        cls, item_ids: Ids, channels: tuple[str, ...], scores: NDArray[np.float32], ranks: NDArray[np.int32]
    ) -> Candidates:
        """Candidates for which no channel named a seed."""
        shape = (len(item_ids), len(channels))
        return cls(item_ids, channels, scores, ranks, np.zeros(shape, np.int64), np.zeros(shape, np.bool_))

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, index: slice | Ids | Mask) -> Candidates:
        """The candidates at `index`, in that order."""
        if isinstance(index, slice):
            parts = [array[index] for array in self._arrays()]
        else:
            # Four times as fast as indexing with an array, for those of two dimensions.
            positions = np.flatnonzero(index) if index.dtype == np.bool_ else index
            parts = [array.take(positions, axis=0) for array in self._arrays()]
        item_ids, scores, ranks, seed_item_ids, seed_present = parts
        return Candidates(item_ids, self.channels, scores, ranks, seed_item_ids, seed_present)

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return self.item_ids, self.scores, self.ranks, self.seed_item_ids, self.seed_present


@dataclass(frozen=True, slots=True)
class RankQuery:
    """One user's candidates for the ranker."""

    history: History
    as_of: int
    candidates: Candidates
    preferred_genres: tuple[str, ...] = ()
    user_id: int | None = None
    request_id: str = ""
    """Of the request that caused the query, for the logs."""
