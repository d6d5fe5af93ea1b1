"""Histories, filters, ids and names: the parts of every service's messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recsys.convert.lists import WireList
from recsys.domain import RATING, EventType, History, ItemFilter, Scores
from recsys.errors import InvalidRequest
from recsys.v1 import types_pb2

MAX_QUERIES = 256
"""Most queries in one batch."""

MAX_COUNT = 2_000
"""Most candidates that a recall query may request, and that a rank query may contain."""

MAX_NAMES = 200
"""Most genres in one list."""

_ITEM_IDS = WireList("item_ids", "<i8")
_TIMESTAMPS = WireList("timestamps", "<i8")
_TYPES = WireList("types", "<i1")
_VALUES = WireList("values", "<f4")

_UNSIGNED = {1: np.uint8, 4: np.uint32, 8: np.uint64}

_LAST_TYPE = int(max(EventType))

T = TypeVar("T")


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
        InvalidRequest: lists of different lengths or cut off, too many events, a negative time, an unknown type, an
            infinity.
    """
    n = _ITEM_IDS.size(message)
    if limit is not None and n > limit:
        raise InvalidRequest(f"{field}.item_ids: {n} events, at most {limit} are allowed; send the latest ones")
    item_ids, times = _ITEM_IDS.read(message, field), _of_each_event(_TIMESTAMPS, message, n, field)
    types, values = _event_types(message, n, field), _event_values(message, n, field)
    if times is None:
        return History(item_ids, np.full(n, as_of, np.int64), types, values)
    in_order = not np.count_nonzero(times[1:] < times[:-1])
    if times[0] < 0 or not in_order:
        refuse_where(times < 0, times, f"{field}.timestamps", "expected Unix seconds, 0 or more")
    history = History(item_ids, times, types, values)
    return history if in_order else history.take(np.argsort(times, kind="stable"))


def _of_each_event(part: WireList, message: types_pb2.History, n: int, field: str) -> NDArray[Any] | None:
    """The values of one list, None if it is empty; raises InvalidRequest unless there is one per event."""
    values = part.read(message, field)
    if len(values) not in (0, n):
        raise InvalidRequest(f"{field}.{part.name}: {len(values)} entries for {n} item_ids; expected none or {n}")
    return values if len(values) else None


def _event_types(message: types_pb2.History, n: int, field: str) -> NDArray[np.int8]:
    numbers = _of_each_event(_TYPES, message, n, field)
    if numbers is None:
        return np.full(n, RATING, np.int8)
    refuse_where(beyond(numbers, _LAST_TYPE), numbers, f"{field}.types", f"expected 0 to {_LAST_TYPE}")
    if np.count_nonzero(numbers) < n:
        numbers = np.where(numbers == 0, RATING, numbers)
    return numbers.astype(np.int8, copy=False)


def _event_values(message: types_pb2.History, n: int, field: str) -> Scores:
    values = _of_each_event(_VALUES, message, n, field)
    if values is None:
        return np.full(n, np.nan, np.float32)
    refuse_where(np.isinf(values), values, f"{field}.values", "expected a finite number, or NaN for none")
    return values


def beyond(values: NDArray[Any], largest: int) -> NDArray[np.bool_]:
    """Where integers are negative or above `largest`: as unsigned numbers, negative ones are above it, too."""
    return values.view(_UNSIGNED[values.itemsize]) > largest


def refuse_where(bad: NDArray[np.bool_], values: NDArray[Any], field: str, expected: str) -> None:
    """Raises InvalidRequest, which names the first entry of `values` where `bad` is set."""
    if np.count_nonzero(bad):
        first = int(np.argmax(bad))
        raise InvalidRequest(f"{field}[{first}]: {values[first]}; {expected}")


def history_to_proto(
    history: History, message: types_pb2.History | None = None, *, packed: bool = False
) -> types_pb2.History:
    """Fills in `message`, or a new one; in repeated form types and values stay empty if they carry no information.

    A message that is filled in where it belongs is not copied into the message around it.
    """
    message = types_pb2.History() if message is None else message
    _ITEM_IDS.write(message, history.item_ids, packed=packed)
    _TIMESTAMPS.write(message, history.timestamps, packed=packed)
    if packed or not (history.types == RATING).all():
        _TYPES.write(message, history.types, packed=packed)
    if packed or not np.isnan(history.values).all():
        _VALUES.write(message, history.values, packed=packed)
    return message


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
