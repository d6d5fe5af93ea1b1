from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from recsys.bundle import golden
from recsys.domain import History, ItemFilter, RankQuery, RecallQuery, RecallResult
from recsys.errors import BundleDamaged, BundleMismatch
from recsys.testing import toy_rank_query

QUERY = RecallQuery(
    History.of([7, 8], [1, 2], types=[1, 2], values=[4.5, math.nan]),
    10,
    4,
    np.asarray([3], np.int64),
    ItemFilter(("Drama",), ("War",), 1990, None),
    ("Comedy",),
)
SCORES = (0.9, 0.5, 0.50005, 0.1)


def result(ids: Sequence[int], scores: Sequence[float] = SCORES) -> RecallResult:
    return RecallResult(np.asarray(ids, np.int64), np.asarray(scores, np.float32))


def recorded(folder: Path) -> Path:
    golden.record_recall(folder, "itemcf", [QUERY], lambda queries: [result([10, 20, 30, 40])])
    return folder


def test_the_channel_is_asked_the_very_query(tmp_path: Path) -> None:
    asked: list[RecallQuery] = []

    def recall(queries: Sequence[RecallQuery]) -> list[RecallResult]:
        asked.extend(queries)
        return [result([10, 20, 30, 40])]

    golden.check_recall(recorded(tmp_path), "itemcf", recall)
    (found,) = asked
    for name in ("item_ids", "timestamps", "types", "values"):
        assert_array_equal(getattr(found.history, name), getattr(QUERY.history, name))
        assert getattr(found.history, name).dtype == getattr(QUERY.history, name).dtype
    assert (found.as_of, found.count, found.exclude_item_ids.tolist()) == (10, 4, [3])
    assert (found.item_filter, found.preferred_genres) == (QUERY.item_filter, QUERY.preferred_genres)


@pytest.mark.parametrize(
    ("ids", "scores"),
    [
        ([10, 20, 30, 40], SCORES),
        ([10, 20, 30, 40], (0.90009, 0.5, 0.50005, 0.09995)),  # rounding
        ([10, 30, 20, 40], SCORES),  # a near-tie that swapped
        ([10, 20, 30, 41], SCORES),  # a near-tie at the end of the list
    ],
)
def test_rounding_and_near_ties_pass(tmp_path: Path, ids: list[int], scores: Sequence[float]) -> None:
    golden.check_recall(recorded(tmp_path), "itemcf", lambda queries: [result(ids, scores)])


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (result([10, 20, 30, 40], (0.9, 0.5, 0.50005, 0.1002)), r"request 0: score 3 is 0\.1002, expected 0\.1"),
        (result([10, 20, 30, 40], (math.nan, 0.5, 0.5, 0.1)), r"request 0: score 0 is nan, expected 0\.9"),
        (result([20, 10, 30, 40]), r"item 20 with score 0\.9 at position 1, expected item 10, and 0\.5 for item 20"),
        (result([99, 20, 30, 40]), r"item 99 with score 0\.9"),
        (result([10, 20, 30], SCORES[:3]), "3 scores, expected 4"),
    ],
)
def test_other_answers_are_refused_with_both_values(tmp_path: Path, found: RecallResult, complaint: str) -> None:
    with pytest.raises(BundleMismatch, match=complaint) as caught:
        golden.check_recall(recorded(tmp_path), "itemcf", lambda queries: [found])
    assert "golden/itemcf.json" in str(caught.value)


def test_large_scores_are_compared_relatively(tmp_path: Path) -> None:
    golden.record_recall(tmp_path, "vector", [QUERY], lambda queries: [result([1], [100_000.0])])
    golden.check_recall(tmp_path, "vector", lambda queries: [result([1], [100_005.0])])
    with pytest.raises(BundleMismatch):
        golden.check_recall(tmp_path, "vector", lambda queries: [result([1], [100_015.0])])


def test_the_ranker_is_asked_the_very_query_and_held_to_its_scores(tmp_path: Path) -> None:
    query, asked = toy_rank_query([3, 1]), []
    golden.record_rank(tmp_path, [query], lambda queries: [np.asarray([0.25, 0.75], np.float32)])

    def rank(queries: Sequence[RankQuery]) -> list[np.ndarray]:
        asked.extend(queries)
        return [np.asarray([0.25, 0.75 + 5e-5], np.float32)]

    golden.check_rank(tmp_path, rank)
    for name in ("item_ids", "scores", "ranks"):
        assert_array_equal(getattr(asked[0].candidates, name), getattr(query.candidates, name))
    assert asked[0].candidates.channels == query.candidates.channels
    with pytest.raises(BundleMismatch, match=r"score 0 is 0\.75, expected 0\.25"):
        golden.check_rank(tmp_path, lambda queries: [np.asarray([0.75, 0.25], np.float32)])


def test_a_bundle_without_or_with_broken_golden_requests_is_refused(tmp_path: Path) -> None:
    def recall(queries: Sequence[RecallQuery]) -> list[RecallResult]:
        raise AssertionError("nothing to ask")

    with pytest.raises(BundleMismatch, match=r"itemcf\.json: no golden requests for role 'itemcf'"):
        golden.check_recall(tmp_path, "itemcf", recall)
    path = tmp_path / golden.golden_file("itemcf")
    path.parent.mkdir()
    for text in ("{", "[]", '{"requests": [{"query": 1}]}'):
        path.write_text(text)
        with pytest.raises(BundleDamaged, match=r"itemcf\.json: not golden requests"):
            golden.check_recall(tmp_path, "itemcf", recall)
    path.write_text(json.dumps({"role": "vector", "requests": []}))
    with pytest.raises(BundleMismatch, match="0 golden requests for role 'vector', expected some for 'itemcf'"):
        golden.check_recall(tmp_path, "itemcf", recall)


def test_any_role_can_record_queries_of_its_own(tmp_path: Path) -> None:
    golden.record(tmp_path, "gateway", [{"user": 1}, {"user": 2}], [[1, 2], None])
    assert golden.recorded(tmp_path, "gateway") == [({"user": 1}, [1, 2]), ({"user": 2}, None)]
