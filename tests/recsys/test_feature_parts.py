"""The parts that features are made of, each on a world with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.catalogue import Catalogue
from recsys.domain import History
from recsys.features.credits import PEOPLE_NAMES, PeopleCrosses, reach
from recsys.features.events import MISSING, ItemEvents
from recsys.features.item_statistics import STAGES, ItemStatistics, stage_of
from recsys.features.ranks import within_request_ranks
from recsys.features.sessions import SESSION_NAMES, sessions_of
from recsys.features.similarity import SIMILARITY_NAMES, similarities
from recsys.features.user import ItemTraits, UserProfile, profile_of
from recsys.features.vectors import SIZE, item_vectors
from recsys.people import People, Role

DAY, HOUR = 86_400, 3_600
MONDAY = 4 * DAY
"""1970-01-05, 00:00 UTC."""


def events_of(*rows: tuple[int, int, int]) -> ItemEvents:
    """From (user, item, day), users ascending."""
    users, items, days = (np.asarray(column) for column in zip(*rows, strict=True))
    values = np.full(len(rows), 3, np.float32)
    return ItemEvents(items.astype(np.int32), days.astype(np.int64) * DAY, values, users.astype(np.int32))


def test_returning_users_are_those_who_came_a_week_before() -> None:
    events = events_of((0, 0, 0), (0, 1, 7), (0, 2, 8), (1, 2, 90), (2, 0, 95), (2, 2, 99))
    statistics = ItemStatistics.of(events, 3, 100 * DAY)
    assert statistics.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert statistics.counts[-1].tolist() == [2, 1, 3]
    assert statistics.returning[-1].tolist() == [0, 0, 1]
    assert statistics.counts[0].tolist() == [1, 0, 1]
    assert statistics.returning[0].tolist() == [0, 0, 0]
    assert statistics.returning_share(-1).tolist() == pytest.approx(
        [n / d for n, d in ((10 / 6, 12), (10 / 6, 11), (16 / 6, 13))]
    )


def test_stages_count_events_by_how_far_the_user_had_come() -> None:
    assert [int(stage_of(n)) for n in (0, 19, 20, 319, 320, 5_000)] == [0, 0, 1, 4, 5, 5]
    events = events_of(*((0, 0, 100) for _ in range(20)), (0, 1, 100))
    stages = ItemStatistics.of(events, 3, 100 * DAY).stages()
    assert stages.shape == (3, len(STAGES))
    assert stages[:, 0].tolist() == pytest.approx([math.log(21 / (1 + 20 / 3)), *(-math.log(1 + 20 / 3),) * 2])
    assert stages[:, 1].argmax() == 1
    assert not stages[:, 2:].any()


def test_items_of_the_same_users_point_the_same_way() -> None:
    """Even users take items 0 to 4, odd ones 5 to 9; nobody takes item 10."""
    rows = [(user, item + 5 * (user % 2), user) for user in range(20) for item in range(5) if (user + item) % 3]
    vectors = item_vectors(events_of(*rows), 11)
    assert vectors.shape == (11, SIZE)
    assert vectors.dtype == np.float32
    cosines = vectors @ vectors.T
    assert np.allclose(np.diag(cosines)[:10], 1.0, atol=1e-6)
    assert cosines[:5, :5].min() > 0.2
    assert np.abs(cosines[:5, 5:10]).max() < 1e-6
    assert not vectors[10].any()
    assert item_vectors(events_of(*rows), 11).tobytes() == vectors.tobytes()


def test_vectors_of_nothing_are_zeros() -> None:
    nothing = ItemEvents(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32))
    assert not item_vectors(nothing, 3).any()


def profile(values: list[float]) -> UserProfile:
    n = len(values)
    history = History.of(range(n), range(n), values=values)
    column = np.full(n, 5, np.float32)
    traits = ItemTraits.of(
        np.ones((n, 1), np.bool_), column, popularity=column, ratings=column, days_since_first=column
    )
    return profile_of(np.arange(n), history, traits, as_of=n, preferred=())


def test_similarities_compare_with_last_session_liked_and_nearest() -> None:
    """The past points east, north, north; the candidates east and north."""
    past = np.asarray([[1, 0], [0, 1], [0, 1]], np.float32)
    candidates = np.eye(2, dtype=np.float32)
    found = similarities(candidates, past, profile([5, 1, 3]), in_session=np.asarray([False, True, True]))
    table = dict(zip(SIMILARITY_NAMES, found.T.tolist(), strict=True))
    assert table["cross_last_similarity"] == table["cross_session_similarity"] == [0, 1]
    assert table["cross_last5_similarity"] == table["cross_all_similarity"] == pytest.approx([1 / 3, 2 / 3])
    assert table["cross_liked_similarity"] == [0.5, 0.5]
    assert table["cross_disliked_similarity"] == [0, 1]
    assert table["cross_nearest_similarity"] == [1, 1]
    assert table["cross_neighbour_rating"] == [2, -1]
    assert table["cross_recent_similarity"][1] > 2 / 3


def test_without_events_nothing_is_similar() -> None:
    none = np.empty((0, 2), np.float32)
    assert (
        similarities(np.eye(2, dtype=np.float32), none, profile([]), in_session=np.empty(0, np.bool_)) == MISSING
    ).all()
    liked = similarities(
        np.eye(2, dtype=np.float32), np.ones((1, 2), np.float32), profile([4]), in_session=np.ones(1, np.bool_)
    )
    assert (liked[:, SIMILARITY_NAMES.index("cross_disliked_similarity")] == MISSING).all()


def test_sessions_end_with_a_pause_and_hours_go_around_midnight() -> None:
    times = np.asarray([MONDAY + 10 * HOUR, MONDAY + 15 * HOUR, MONDAY + 23 * HOUR, MONDAY + 5 * DAY + HOUR])
    sessions = sessions_of(times, MONDAY + 5 * DAY + 2 * HOUR)
    found = dict(zip(SESSION_NAMES, sessions.numbers.tolist(), strict=True))
    assert sessions.in_last.tolist() == [False, False, False, True]
    assert found["user_sessions"] == pytest.approx(math.log1p(3))
    assert found["user_session_events"] == pytest.approx(math.log1p(1))
    assert found["user_in_session"] == 1
    assert found["user_hour_share"] == 0.5
    assert found["user_weekend_share"] == 0.25
    assert sessions_of(times, MONDAY + 6 * DAY).numbers[SESSION_NAMES.index("user_in_session")] == 0


def test_a_place_is_shared_by_equals() -> None:
    assert within_request_ranks(np.asarray([[3], [5], [3], [1]], np.float32))[:, 0].tolist() == [2, 1, 2, 4]
    assert within_request_ranks(np.empty((0, 1), np.float32)).shape == (0, 1)


PEOPLE = People(
    np.asarray([0, 3, 5, 6, 6]),
    np.asarray([0, 1, 2, 0, 1, 3], np.int32),
    np.asarray([Role.DIRECTOR, Role.CAST, Role.CAST, Role.DIRECTOR, Role.CAST, Role.DIRECTOR], np.int8),
    np.asarray([100, 101, 102, 103]),
)
"""Person 0 directs items 0 and 1, with 1 in both and 2 in the first; 3 directs item 2; nobody is known of item 3."""


def test_people_of_the_past_are_met_again() -> None:
    found = PeopleCrosses.of(PEOPLE).crosses(
        np.asarray([1, 2, 3]), np.asarray([0, 2]), np.asarray([1.5, -0.5], np.float32)
    )
    table = dict(zip(PEOPLE_NAMES, found.T.tolist(), strict=True))
    assert table["cross_director_events"] == pytest.approx([math.log1p(1), math.log1p(1), MISSING])
    assert table["cross_director_rating"] == [1.5, -0.5, MISSING]
    assert table["cross_cast_events"] == pytest.approx([math.log1p(1), MISSING, MISSING])
    assert table["cross_cast_overlap"] == [1, MISSING, MISSING]


def test_reach_is_what_people_did_elsewhere() -> None:
    catalogue = Catalogue(np.arange(4), np.zeros(4, np.int16), np.zeros((4, 0), np.bool_), (), PEOPLE)
    directors, cast = reach(catalogue, np.asarray([10.0, 4.0, 7.0, 1.0]))
    assert directors.tolist() == pytest.approx([math.log1p(4), math.log1p(10), 0, MISSING])
    assert cast.tolist() == pytest.approx([math.log1p(4) / 2, math.log1p(10), MISSING, MISSING])
