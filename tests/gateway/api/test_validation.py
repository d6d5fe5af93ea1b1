"""Bad input: every limit of the public API, refused by the name of its field."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gateway.api import parsing, validation
from gateway.bundle.resolve import EMPTY_IDENTITIES, Identities, KeyTable
from gateway.events.store import Event
from recsys.catalogue import NO_YEAR, Catalogue
from recsys.domain import EventType, ItemFilter
from recsys.errors import InvalidRequest
from recsys.identity import FIRST_ASSIGNED
from recsys.v1 import recommend_pb2, types_pb2

NOW = 1_700_000_000
CATALOGUE = Catalogue(
    np.asarray([1, 2], np.int64), np.full(2, NO_YEAR, np.int16), np.ones((2, 2), np.bool_), ("Drama", "Western")
)
IDENTITIES = Identities(KeyTable({"ada": FIRST_ASSIGNED}), KeyTable({"tt1": FIRST_ASSIGNED}))


def good(**changes: Any) -> recommend_pb2.Event:
    fields: dict[str, Any] = {"event_id": "e", "user_id": 7, "item_id": 3, "type": types_pb2.EVENT_TYPE_VIEW}
    return recommend_pb2.Event(**{name: value for name, value in (fields | changes).items() if value is not None})


def events(*sent: recommend_pb2.Event) -> list[Event]:
    return parsing.parse_events(recommend_pb2.RecordEventsRequest(events=sent), IDENTITIES, NOW)


BAD_EVENTS = [
    (good(event_id=""), r"events\[1\]\.event_id: 0 characters"),
    (good(event_id="e" * 129), r"events\[1\]\.event_id: 129 characters"),
    (good(request_id="r" * 129), r"events\[1\]\.request_id: 129 characters"),
    (good(user_id=None), r"events\[1\]\.user: neither"),
    (good(user_id=None, user_key=""), r"events\[1\]\.user_key: a key of 0 bytes"),
    (good(user_id=None, user_key="u" * 257), r"events\[1\]\.user_key: a key of 257 bytes"),
    (good(user_id=-1), r"events\[1\]\.user_id: the served bundle has no key for -1"),
    (good(user_id=FIRST_ASSIGNED + 5), r"events\[1\]\.user_id: .* send events\[1\]\.user_key"),
    (good(item_id=None), r"events\[1\]\.item: neither"),
    (good(item_id=-3), r"events\[1\]\.item_id: the served bundle has no key for -3"),
    (good(item_id=None, item_key="i" * 257), r"events\[1\]\.item_key: a key of 257 bytes"),
    (good(type=types_pb2.EVENT_TYPE_UNSPECIFIED), r"events\[1\]\.type: 0; expected one of 1 RATING"),
    (good(type=99), r"events\[1\]\.type: 99"),
    (good(type=types_pb2.EVENT_TYPE_RATING), r"events\[1\]\.value: not set; a rating needs"),
    (good(value=math.nan), r"events\[1\]\.value: nan"),
    (good(value=math.inf), r"events\[1\]\.value: inf"),
    (good(value=3e38), r"events\[1\]\.value: 3e\+38; expected at most"),
    (good(time=-1), r"events\[1\]\.time: -1"),
    (good(time=NOW + 86_401), r"events\[1\]\.time: "),
]


@pytest.mark.parametrize(("bad", "complaint"), BAD_EVENTS, ids=lambda value: value if isinstance(value, str) else "")
def test_one_bad_event_refuses_all_and_is_named(bad: recommend_pb2.Event, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        events(good(), bad)


def test_too_many_events_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="events: 1001 of them"):
        events(*[good()] * 1001)
    assert len(events(*[good()] * 1000)) == 1000


def test_events_become_rows_with_canonical_keys() -> None:
    first, second, third = events(
        good(event_id="a", request_id="r", time=5, value=2.0),
        good(event_id="b", user_id=None, user_key="7", item_id=None, item_key="unheard-of"),
        good(event_id="c", user_id=FIRST_ASSIGNED, item_id=FIRST_ASSIGNED, time=NOW + 100),
    )
    assert first == Event("a", "r", "7", "3", 7, 3, EventType.VIEW, 2.0, 5, NOW)
    assert second == Event("b", "", "7", "unheard-of", 7, None, EventType.VIEW, None, NOW, NOW)
    assert third == Event("c", "", "ada", "tt1", FIRST_ASSIGNED, FIRST_ASSIGNED, EventType.VIEW, None, NOW, NOW)


def test_without_a_bundle_numbers_below_2_to_the_53_are_recorded() -> None:
    sent = recommend_pb2.RecordEventsRequest(events=[good()])
    assert parsing.parse_events(sent, EMPTY_IDENTITIES, NOW)[0].user_key == "7"


@pytest.mark.parametrize(("count", "expected"), [(0, 10), (1, 1), (500, 500)])
def test_counts_in_bounds_pass(count: int, expected: int) -> None:
    assert validation.parse_count(count) == expected


def test_a_count_out_of_bounds_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="count: 501; at most 500"):
        validation.parse_count(501)


def test_excluded_ids_may_be_repeated_and_unknown_but_not_too_many() -> None:
    sent = recommend_pb2.RecommendRequest(exclude_item_ids=[9, -1, 9])
    assert validation.parse_excluded(sent).tolist() == [-1, 9]
    with pytest.raises(InvalidRequest, match="exclude_item_ids: 10001 ids"):
        validation.parse_excluded(recommend_pb2.RecommendRequest(exclude_item_ids=range(10_001)))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (types_pb2.ItemFilter(genres_any=["Opera"]), "filter.genres_any: unknown genre 'Opera'; .* Drama, Western"),
        (types_pb2.ItemFilter(genres_none=["drama"]), "filter.genres_none: unknown genre 'drama'"),
        (types_pb2.ItemFilter(genres_any=["Drama"] * 201), "filter.genres_any: 201 names"),
        (types_pb2.ItemFilter(min_year=2001, max_year=2000), "filter.min_year: 2001 is after max_year 2000"),
    ],
)
def test_bad_filters_are_refused(message: types_pb2.ItemFilter, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        validation.parse_filter(recommend_pb2.RecommendRequest(filter=message), CATALOGUE)


def test_a_year_of_zero_is_a_bound_and_an_absent_one_is_not() -> None:
    for kind in (recommend_pb2.RecommendRequest, recommend_pb2.SimilarItemsRequest):
        bound = kind(filter=types_pb2.ItemFilter(min_year=0))
        assert validation.parse_filter(bound, CATALOGUE) == ItemFilter(min_year=0)
        assert not validation.parse_filter(kind(filter=types_pb2.ItemFilter()), CATALOGUE)
        assert not validation.parse_filter(kind(), CATALOGUE)


def test_users_items_and_times() -> None:
    ask = recommend_pb2.RecommendRequest
    assert validation.parse_user(ask()) == (None, None)
    assert validation.parse_user(ask(user_id=0)) == (0, None)
    assert validation.parse_user(ask(user_key="0")) == (None, "0")
    assert validation.parse_as_of(ask()) is None
    assert validation.parse_as_of(ask(as_of=0)) == 0
    similar = recommend_pb2.SimilarItemsRequest
    assert validation.parse_item(similar(item_key="tt1"), IDENTITIES.items) == FIRST_ASSIGNED
    assert validation.parse_item(similar(item_key="tt2"), IDENTITIES.items) is None
    for bad, complaint in ((ask(user_id=-1), "user_id: -1"), (ask(user_key=""), "user_key: a key of 0 bytes")):
        with pytest.raises(InvalidRequest, match=complaint):
            validation.parse_user(bad)
    with pytest.raises(InvalidRequest, match="as_of: -5"):
        validation.parse_as_of(ask(as_of=-5))
    for nothing, complaint in ((similar(), "item: neither"), (similar(item_id=-1), "item_id: -1")):
        with pytest.raises(InvalidRequest, match=complaint):
            validation.parse_item(nothing, IDENTITIES.items)
