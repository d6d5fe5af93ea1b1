"""Histories, filters, ids and names: the parts of every service's messages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.domain import RATING, EventType, History, Ids, ItemFilter, Scores
from recsys.errors import InvalidRequest
from recsys.v1 import types_pb2

MAX_QUERIES = 256
"""Most queries in one batch."""

MAX_COUNT = 2_000
"""Most candidates that a recall query may request, and that a rank query may contain."""

MAX_NAMES = 200
"""Most genres in one list."""

_LAST_TYPE = int(max(EventType))

T = TypeVar("T")


def ids_from_proto(values: Collection[int]) -> Ids:
    """int64[n]. `fromiter` is the fastest way to read a repeated field that also works if it is empty."""
    return np.fromiter(values, np.int64, len(values))


def floats_from_proto(values: Sequence[float]) -> Scores:
    """float32[n]. Through a list: as fast as `fromiter`, and twice as fast in Debian's Python."""
    return np.array(values[:], np.float32)


def names_from_proto(values: Sequence[str], field: str) -> tuple[str, ...]:
    """Genre names; the catalogue checks whether they exist."""
    if len(values) > MAX_NAMES:
        raise InvalidRequest(f"{field}: {len(values)} names, at most {MAX_NAMES} are allowed")
    return tuple(values)


def as_of_from_proto(as_of: int, field: str) -> int:
    """Unix seconds, not negative."""
    if as_of < 0:
        raise InvalidRequest(f"{field}: {as_of}; expected Unix seconds, 0 or more")
    return as_of


def batch_from_proto(queries: Sequence[T]) -> Sequence[T]:
    """The queries of a batch; raises InvalidRequest if there are too many."""
    if len(queries) > MAX_QUERIES:
        raise InvalidRequest(f"queries: {len(queries)}, at most {MAX_QUERIES} are allowed; split the batch")
    return queries


def history_from_proto(
    message: types_pb2.History, *, as_of: int, field: str = "history", limit: int | None = None
) -> History:
    """A history in stable order of time. `limit` is the most events allowed; None: no limit.

    Without timestamps every event happened at `as_of`; without types all are ratings; without values no event has one.

    Raises:
        InvalidRequest: lists of different lengths, too many events, a negative time, an unknown type, an infinity.
    """
    n = len(message.item_ids)
    if limit is not None and n > limit:
        raise InvalidRequest(f"{field}.item_ids: {n} events, at most {limit} are allowed; send the latest ones")
    for name in ("timestamps", "types", "values"):
        found = len(getattr(message, name))
        if found not in (0, n):
            raise InvalidRequest(f"{field}.{name}: {found} entries for {n} item_ids; expected none or {n}")
    item_ids = ids_from_proto(message.item_ids)
    times = ids_from_proto(message.timestamps) if message.timestamps else np.full(n, as_of, np.int64)
    types, values = _event_types(message, field), _event_values(message, field)
    refuse_where(times < 0, times, f"{field}.timestamps", "expected Unix seconds, 0 or more")
    history = History(item_ids, times, types, values)
    return history if (times[1:] >= times[:-1]).all() else history.take(np.argsort(times, kind="stable"))


def _event_types(message: types_pb2.History, field: str) -> NDArray[np.int8]:
    if not message.types:
        return np.full(len(message.item_ids), RATING, np.int8)
    numbers = np.fromiter(message.types, np.int64, len(message.types))
    numbers[numbers == 0] = RATING
    unknown = (numbers < 0) | (numbers > _LAST_TYPE)
    refuse_where(unknown, numbers, f"{field}.types", f"expected 0 to {_LAST_TYPE}")
    return numbers.astype(np.int8)


def _event_values(message: types_pb2.History, field: str) -> Scores:
    if not message.values:
        return np.full(len(message.item_ids), np.nan, np.float32)
    values = floats_from_proto(message.values)
    refuse_where(np.isinf(values), values, f"{field}.values", "expected a finite number, or NaN for none")
    return values


def refuse_where(bad: NDArray[np.bool_], values: Ids | Scores, field: str, expected: str) -> None:
    """Raises InvalidRequest, which names the first entry of `values` where `bad` is set."""
    if bad.any():
        first = int(np.argmax(bad))
        raise InvalidRequest(f"{field}[{first}]: {values[first]}; {expected}")


@lru_cache(maxsize=4)
def history_to_proto(history: History) -> types_pb2.History:
    """The message, which must not be changed; types and values stay empty if they carry no information.

    A request sends one history to several channels and to the ranker, so the last few messages are cached.
    """
    plain = bool((history.types == RATING).all())
    valueless = bool(np.isnan(history.values).all())
    return types_pb2.History(
        item_ids=history.item_ids.tolist(),
        timestamps=history.timestamps.tolist(),
        types=None if plain else history.types.tolist(),
        values=None if valueless else history.values.tolist(),
    )


def item_filter_from_proto(message: types_pb2.ItemFilter, field: str = "filter") -> ItemFilter:
    """The filter; raises InvalidRequest if no year can match."""
    low = message.min_year if message.HasField("min_year") else None
    high = message.max_year if message.HasField("max_year") else None
    if low is not None and high is not None and low > high:
        raise InvalidRequest(f"{field}.min_year: {low} is after max_year {high}; swap them")
    return ItemFilter(
        names_from_proto(message.genres_any, f"{field}.genres_any"),
        names_from_proto(message.genres_none, f"{field}.genres_none"),
        low,
        high,
    )


def item_filter_to_proto(item_filter: ItemFilter) -> types_pb2.ItemFilter:
    """The message; unset years stay absent."""
    return types_pb2.ItemFilter(
        genres_any=item_filter.genres_any,
        genres_none=item_filter.genres_none,
        min_year=item_filter.min_year,
        max_year=item_filter.max_year,
    )
