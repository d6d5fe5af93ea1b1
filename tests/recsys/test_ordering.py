from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.ordering import are_among, distinct, has_repeats, order_by_score, top_k


def scores(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)


@pytest.mark.parametrize(
    ("values", "k", "rows"),
    [
        ((1, 3, 2), 2, [1, 2]),
        ((1, 1, 1, 1), 2, [0, 1]),
        ((1, 2, 2, 3), 2, [3, 1]),
        ((1, -np.inf, 2), 3, [2, 0]),
        ((-np.inf, -np.inf), 2, []),
        ((1, 2), 0, []),
        ((1, 2), 9, [1, 0]),
        ((-1, -2, -3), 2, [0, 1]),
        ((), 3, []),
    ],
)
def test_the_best_come_first_and_ties_by_row(values: tuple[float, ...], k: int, rows: list[int]) -> None:
    assert top_k(scores(*values), k).tolist() == rows


@given(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])), st.integers(0, 12))
def test_top_k_is_the_head_of_the_full_order(values: list[float], k: int) -> None:
    array = scores(*values)
    full = [row for row in sorted(range(len(values)), key=lambda row: (-values[row], row)) if values[row] > -np.inf]
    assert top_k(array, k).tolist() == full[:k]


def test_equal_scores_are_ordered_by_item_id() -> None:
    order = order_by_score(scores(1, 2, 1, 2), np.asarray([9, 8, 3, 7], np.int64))
    assert order.tolist() == [3, 1, 2, 0]


few_ids = st.lists(st.sampled_from([0, 1, 5, 7, 2**53, 2**53 + 1]), max_size=12)


@given(few_ids)
def test_distinct_ids_are_the_set_in_ascending_order(ids: list[int]) -> None:
    assert distinct(np.asarray(ids, np.int64)).tolist() == sorted(set(ids))


@given(few_ids)
def test_a_repeated_id_is_seen_wherever_it_stands(ids: list[int]) -> None:
    assert has_repeats(np.asarray(ids, np.int64)) == (len(set(ids)) < len(ids))


@given(few_ids, few_ids)
def test_ids_are_among_a_set_or_not(ids: list[int], others: list[int]) -> None:
    found = are_among(np.asarray(ids, np.int64), np.asarray(sorted(set(others)), np.int64))
    assert found.tolist() == [number in others for number in ids]
