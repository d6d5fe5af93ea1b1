from __future__ import annotations

import numpy as np
import pytest

from recsys.contracts import check_recall_result, check_scores
from recsys.domain import History, RecallQuery, RecallResult
from recsys.errors import ContractBroken
from recsys.testing import toy_rank_query

QUERY = RecallQuery(History.empty(), 0, 3)


def result(ids: list[int], scores: list[float]) -> RecallResult:
    return RecallResult(np.asarray(ids, np.int64), np.asarray(scores, np.float32))


@pytest.mark.parametrize(
    ("ids", "scores"), [([], []), ([5], [0.0]), ([9, 1, 2], [3, 1, 1]), ([2, 1, 3], [1e30, -1, -1e30])]
)
def test_a_good_result_passes(ids: list[int], scores: list[float]) -> None:
    check_recall_result("x", QUERY, result(ids, scores))


@pytest.mark.parametrize(
    ("ids", "scores", "complaint"),
    [
        ([1, 2], [1], "2 ids and 1 scores"),
        ([1, 2, 3, 4], [4, 3, 2, 1], "4 ids and 4 scores for count 3"),
        ([1, 2], [1, np.nan], "not finite"),
        ([1, 2], [np.inf, 1], "not finite"),
        ([1, 2], [1, 2], "not in order"),
        ([2, 1], [1, 1], "not in order"),
        ([1, 1], [1, 1], "not in order"),
        ([1, 2, 1], [3, 2, 1], "came back twice"),
    ],
)
def test_a_bad_result_breaks_the_contract_by_name(ids: list[int], scores: list[float], complaint: str) -> None:
    with pytest.raises(ContractBroken, match=f"itemcf: .*{complaint}"):
        check_recall_result("itemcf", QUERY, result(ids, scores))


def test_scores_are_one_finite_number_per_candidate() -> None:
    query = toy_rank_query([3, 1])
    check_scores("rank", query, np.asarray([1, 2], np.float32))
    with pytest.raises(ContractBroken, match="rank: 1 scores for 2 candidates"):
        check_scores("rank", query, np.asarray([1], np.float32))
    with pytest.raises(ContractBroken, match="rank: a score is not finite"):
        check_scores("rank", query, np.asarray([1, np.nan], np.float32))
