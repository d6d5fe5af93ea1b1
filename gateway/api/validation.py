"""Every limit of the public API. What a caller may not send is refused with an InvalidRequest that names the field."""

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


def parse_count(count: int) -> int:
    """The number of items wanted; 0 means the default."""
    if count > MAX_COUNT:
        raise InvalidRequest(f"count: {count}; at most {MAX_COUNT} items can be requested")
    return count or DEFAULT_COUNT


def parse_excluded(request: recommend_pb2.RecommendRequest | recommend_pb2.SimilarItemsRequest) -> Ids:
    """int64[n], ascending, unique; unknown ids are fine."""
    n = len(request.exclude_item_ids)
    if n > MAX_EXCLUDED:
        raise InvalidRequest(f"exclude_item_ids: {n} ids; at most {MAX_EXCLUDED} can be excluded")
    return distinct(convert.ids_from_proto(request.exclude_item_ids)) if n else NO_IDS


def parse_filter(
    request: recommend_pb2.RecommendRequest | recommend_pb2.SimilarItemsRequest, catalogue: Catalogue
) -> ItemFilter:
    """The attribute filter; its genres must be in the catalogue."""
    if not request.HasField("filter"):
        return NO_FILTER
    item_filter = convert.item_filter_from_proto(request.filter)
    catalogue.check_genres(item_filter.genres_any, "filter.genres_any")
    catalogue.check_genres(item_filter.genres_none, "filter.genres_none")
    return item_filter


def parse_preferred_genres(request: recommend_pb2.RecommendRequest, catalogue: Catalogue) -> tuple[str, ...]:
    """The genres that the user says they like; they must be in the catalogue."""
    names = convert.names_from_proto(request.preferred_genres, "preferred_genres")
    catalogue.check_genres(names, "preferred_genres")
    return names


def parse_as_of(request: recommend_pb2.RecommendRequest) -> int | None:
    """The time that the request names, in Unix seconds; None if it names none."""
    if not request.HasField("as_of"):
        return None
    return convert.as_of_from_proto(request.as_of, "as_of")


def parse_user(request: recommend_pb2.RecommendRequest) -> tuple[int | None, str | None]:
    """Id and key of the user; at most one of them is set."""
    which = request.WhichOneof("user")
    if which == "user_key":
        return None, check_key(request.user_key, "user_key")
    if which == "user_id" and request.user_id < 0:
        raise InvalidRequest(f"user_id: {request.user_id}; user ids are not negative")
    return (request.user_id if which == "user_id" else None), None


def parse_item(request: recommend_pb2.SimilarItemsRequest, items: KeyTable) -> int | None:
    """The id of the requested item; None if its key is unknown to the bundle."""
    which = request.WhichOneof("item")
    if which is None:
        raise InvalidRequest("item: neither item_id nor item_key is set; set one of them")
    if which == "item_key":
        return items.of_key(check_key(request.item_key, "item_key")).id
    if request.item_id < 0:
        raise InvalidRequest(f"item_id: {request.item_id}; item ids are not negative")
    return request.item_id


def check_event_count(n: int) -> None:
    """Raises InvalidRequest if `n` events are too many for one message."""
    if n > MAX_EVENTS:
        raise InvalidRequest(f"events: {n} of them; at most {MAX_EVENTS} can be sent at a time")


def parse_event(field: str, event: recommend_pb2.Event, identities: Identities, received: int) -> Event:
    """One event, named `field` in errors. `received`: Unix seconds on the gateway's clock."""
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
        raise InvalidRequest(f"{field}_id: the served bundle has no key for {number}; send {field}_key")
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
    """The time of the event, at most that of receipt: client clocks may run a little ahead."""
    if not event.HasField("time"):
        return received
    if not 0 <= event.time <= received + MAX_AHEAD_SECONDS:
        raise InvalidRequest(
            f"{field}.time: {event.time}; expected Unix seconds, 0 to {received + MAX_AHEAD_SECONDS} (a day from now)"
        )
    return min(event.time, received)
