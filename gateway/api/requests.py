"""What callers may send: every limit of the public API, each refused by the name of its field."""

from __future__ import annotations

import math

from gateway.bundle.resolve import Identities, KeyTable, ResolvedId, check_key
from gateway.events.store import Event
from recsys import convert
from recsys.catalogue import Catalogue
from recsys.domain import NO_FILTER, NO_IDS, EventType, Ids, ItemFilter
from recsys.errors import InvalidRequest
from recsys.ordering import distinct
from recsys.v1 import recommend_pb2, types_pb2

DEFAULT_COUNT = 10
MAX_COUNT = 500
MAX_EXCLUDED = 10_000
MAX_EVENTS = 1_000
MAX_EVENT_ID = 128
MAX_VALUE = 1e6
"""Largest rating or weight, so that sums and squares of them stay finite in single precision."""
MAX_AHEAD_SECONDS = 86_400
"""How far a client's clock may run ahead of ours."""


def count_of(count: int) -> int:
    """The number of items wanted; 0 means the default."""
    if count > MAX_COUNT:
        raise InvalidRequest(f"count: {count}; at most {MAX_COUNT} items can be asked for")
    return count or DEFAULT_COUNT


def excluded_of(request: recommend_pb2.RecommendRequest | recommend_pb2.SimilarItemsRequest) -> Ids:
    """int64[n], ascending, unique; unknown ids are fine."""
    n = len(request.exclude_item_ids)
    if n > MAX_EXCLUDED:
        raise InvalidRequest(f"exclude_item_ids: {n} ids; at most {MAX_EXCLUDED} can be excluded")
    return distinct(convert.ids_from_proto(request.exclude_item_ids)) if n else NO_IDS


def filter_of(
    request: recommend_pb2.RecommendRequest | recommend_pb2.SimilarItemsRequest, catalogue: Catalogue
) -> ItemFilter:
    """The attribute filter; genres are those of the catalogue."""
    if not request.HasField("filter"):
        return NO_FILTER
    item_filter = convert.item_filter_from_proto(request.filter)
    catalogue.check_genres(item_filter.genres_any, "filter.genres_any")
    catalogue.check_genres(item_filter.genres_none, "filter.genres_none")
    return item_filter


def preferred_of(request: recommend_pb2.RecommendRequest, catalogue: Catalogue) -> tuple[str, ...]:
    """The genres that the user says they like; genres are those of the catalogue."""
    names = convert.names_from_proto(request.preferred_genres, "preferred_genres")
    catalogue.check_genres(names, "preferred_genres")
    return names


def as_of_of(request: recommend_pb2.RecommendRequest) -> int | None:
    """The moment that the request names, None where it names none."""
    if not request.HasField("as_of"):
        return None
    return convert.as_of_from_proto(request.as_of, "as_of")


def user_of(request: recommend_pb2.RecommendRequest) -> tuple[int | None, str | None]:
    """Number and key of the user; at most one of them is set."""
    which = request.WhichOneof("user")
    if which == "user_key":
        return None, check_key(request.user_key, "user_key")
    if which == "user_id" and request.user_id < 0:
        raise InvalidRequest(f"user_id: {request.user_id}; numbers of users are not negative")
    return (request.user_id if which == "user_id" else None), None


def item_of(request: recommend_pb2.SimilarItemsRequest, items: KeyTable) -> int | None:
    """The number of the item that is asked for; None where the bundle cannot know it."""
    which = request.WhichOneof("item")
    if which is None:
        raise InvalidRequest("item: neither item_id nor item_key is set; set one of them")
    if which == "item_key":
        return items.of_key(check_key(request.item_key, "item_key")).id
    if request.item_id < 0:
        raise InvalidRequest(f"item_id: {request.item_id}; numbers of items are not negative")
    return request.item_id


def events_of(request: recommend_pb2.RecordEventsRequest, identities: Identities, received: int) -> list[Event]:
    """The events as rows; one bad event refuses all.

    Raises:
        InvalidRequest: names `events[i].field`, what was found and what is allowed.
    """
    if len(request.events) > MAX_EVENTS:
        raise InvalidRequest(f"events: {len(request.events)} of them; at most {MAX_EVENTS} can be sent at a time")
    return [_event(f"events[{n}]", event, identities, received) for n, event in enumerate(request.events)]


def _event(field: str, event: recommend_pb2.Event, identities: Identities, received: int) -> Event:
    if not 1 <= len(event.event_id) <= MAX_EVENT_ID:
        raise InvalidRequest(f"{field}.event_id: {len(event.event_id)} characters; expected 1 to {MAX_EVENT_ID}")
    if len(event.request_id) > MAX_EVENT_ID:
        raise InvalidRequest(f"{field}.request_id: {len(event.request_id)} characters; at most {MAX_EVENT_ID}")
    user = _resolved(f"{field}.user", event.WhichOneof("user"), event, identities.users)
    item = _resolved(f"{field}.item", event.WhichOneof("item"), event, identities.items)
    return Event(
        event.event_id,
        event.request_id,
        user.key,
        item.key,
        user.id,
        item.id,
        _type(field, event),
        _value(field, event),
        _time(field, event, received),
        received,
    )


def _resolved(field: str, which: str | None, event: recommend_pb2.Event, table: KeyTable) -> ResolvedId:
    if which is None:
        raise InvalidRequest(f"{field}: neither {field}_id nor {field}_key is set; set one of them")
    if which.endswith("_key"):
        return table.of_key(check_key(getattr(event, which), f"{field}_key"))
    number: int = getattr(event, which)
    resolved = table.of_number(number)
    if resolved is None:
        raise InvalidRequest(f"{field}_id: no key has the number {number} in the served bundle; send {field}_key")
    return resolved


def _type(field: str, event: recommend_pb2.Event) -> EventType:
    try:
        return EventType(event.type)
    except ValueError:
        known = ", ".join(f"{kind.value} {kind.name}" for kind in EventType)
        raise InvalidRequest(f"{field}.type: {event.type}; expected one of {known}") from None


def _value(field: str, event: recommend_pb2.Event) -> float | None:
    if not event.HasField("value"):
        if event.type == types_pb2.EVENT_TYPE_RATING:
            raise InvalidRequest(f"{field}.value: not set; a rating needs its value")
        return None
    if not math.isfinite(event.value):
        raise InvalidRequest(f"{field}.value: {event.value}; expected a finite number")
    if abs(event.value) > MAX_VALUE:
        raise InvalidRequest(f"{field}.value: {event.value:g}; expected at most {MAX_VALUE:g} either way")
    return event.value


def _time(field: str, event: recommend_pb2.Event, received: int) -> int:
    """The moment of the event. A client clock that runs a little ahead counts as the moment of receipt."""
    if not event.HasField("time"):
        return received
    if not 0 <= event.time <= received + MAX_AHEAD_SECONDS:
        raise InvalidRequest(
            f"{field}.time: {event.time}; expected Unix seconds, 0 to {received + MAX_AHEAD_SECONDS} (a day from now)"
        )
    return min(event.time, received)
