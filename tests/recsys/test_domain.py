from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.domain import EVENT_SEMANTICS, EVENT_WEIGHTS, EventType, History, ItemFilter
from recsys.v1 import types_pb2

ALL = History.of(
    [1, 2, 3, 4, 5, 6, 7],
    [10, 20, 30, 40, 50, 60, 70],
    types=list(EventType),
    values=[4.0, *[math.nan] * 6],
)


def test_the_table_covers_every_type_of_the_protos() -> None:
    named = {f"EVENT_TYPE_{kind.name}": kind.value for kind in EVENT_SEMANTICS}
    assert named | {"EVENT_TYPE_UNSPECIFIED": 0} == dict(types_pb2.EventType.items())


def test_an_impression_does_nothing_and_a_dislike_only_excludes() -> None:
    impression, dislike = EVENT_SEMANTICS[EventType.IMPRESSION], EVENT_SEMANTICS[EventType.DISLIKE]
    assert (impression.counts_as_seen, impression.weight, impression.enters_sequence, impression.excludes) == (
        False,
        0.0,
        False,
        False,
    )
    assert (dislike.weight, dislike.enters_sequence, dislike.excludes) == (0.0, False, True)


def test_weights_are_indexed_by_type_number_and_zero_is_a_rating() -> None:
    assert EVENT_WEIGHTS.tolist() == pytest.approx([1.0, *(meaning.weight for meaning in EVENT_SEMANTICS.values())])


def test_the_sequence_has_what_is_evidence_of_taste() -> None:
    assert ALL.sequence().item_ids.tolist() == [1, 2, 3, 4, 6]


def test_seen_items_are_those_consumed_and_those_excluded() -> None:
    assert ALL.seen_item_ids().tolist() == [1, 2, 4, 5]


def test_seen_items_are_sorted_and_unique() -> None:
    assert History.of([9, 3, 9, 1], [1, 2, 3, 4]).seen_item_ids().tolist() == [1, 3, 9]


def test_a_later_rating_replaces_an_earlier_one_but_views_add_up() -> None:
    history = History.of(
        [1, 2, 1, 2, 1], [1, 2, 3, 4, 5], types=[1, 2, 1, 2, 1], values=[1.0, math.nan, 2.0, math.nan, 3.0]
    )
    sequence = history.sequence()
    assert sequence.item_ids.tolist() == [2, 2, 1]
    assert sequence.timestamps.tolist() == [2, 4, 5]
    assert sequence.values[2] == 3.0


def test_a_sequence_is_its_own_sequence() -> None:
    sequence = ALL.sequence()
    assert sequence.sequence().item_ids.tolist() == sequence.item_ids.tolist()


@pytest.mark.parametrize(("as_of", "kept"), [(9, 0), (10, 1), (35, 3), (70, 7), (100, 7)])
def test_until_keeps_what_happened_by_then(as_of: int, kept: int) -> None:
    assert ALL.until(as_of).item_ids.tolist() == list(range(1, kept + 1))


@pytest.mark.parametrize(("n", "kept"), [(None, [1, 2, 3]), (0, []), (2, [2, 3]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_last_keeps_the_latest(n: int | None, kept: list[int]) -> None:
    assert History.of([1, 2, 3], [1, 2, 3]).last(n).item_ids.tolist() == kept


def test_joined_histories_are_in_stable_order_of_time() -> None:
    joined = History.of([1, 2], [10, 30]).then(History.of([3, 4], [30, 20]))
    assert joined.item_ids.tolist() == [1, 4, 2, 3]
    assert joined.timestamps.tolist() == [10, 20, 30, 30]


def test_joining_nothing_changes_nothing() -> None:
    assert ALL.then(History.empty()) is ALL
    assert History.empty().then(ALL).item_ids.tolist() == ALL.item_ids.tolist()


def test_what_a_history_is_not_given_has_a_default() -> None:
    history = History.of([1], [2])
    assert history.types.tolist() == [EventType.RATING]
    assert np.isnan(history.values).all()
    dtypes = [array.dtype for array in (history.item_ids, history.timestamps, history.types, history.values)]
    assert dtypes == [np.int64, np.int64, np.int8, np.float32]


def test_an_empty_history_answers_every_question() -> None:
    empty = History.empty()
    assert (len(empty), len(empty.sequence()), len(empty.seen_item_ids()), len(empty.until(5))) == (0, 0, 0, 0)


@pytest.mark.parametrize("wanted", [ItemFilter(min_year=0), ItemFilter(genres_any=("x",)), ItemFilter(max_year=0)])
def test_a_filter_that_asks_for_something_is_true(wanted: ItemFilter) -> None:
    assert wanted
    assert not ItemFilter()
