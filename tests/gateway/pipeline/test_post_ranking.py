"""Stages after ranking: what they change, what they report, and that one without work leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gateway.pipeline.merge import merge
from gateway.pipeline.post_ranking import HiddenItemsCut, OrderedCandidates, PostRankingStage, PreferredGenresFirst
from gateway.pipeline.request import Request, RequestContext
from recsys.domain import History, RecallResult
from tests.gateway.toy import catalogue

HIDDEN = np.asarray([1], np.int64)


def ordered(item_ids: Sequence[int]) -> OrderedCandidates:
    """Items in this order, with scores n, n - 1, …"""
    ids = np.sort(np.asarray(item_ids, np.int64))
    candidates = merge({"popularity": RecallResult(ids, np.linspace(1, 0.5, len(ids), dtype=np.float32))})
    scores = np.arange(len(ids), 0, -1, dtype=np.float32)
    return OrderedCandidates(candidates.take(np.searchsorted(ids, item_ids)), scores)


def context(history: History | None = None, *genres: str) -> RequestContext:
    request = Request(history or History.empty(), 0, 2, preferred_genres=genres)
    return RequestContext(request, request.history.sequence(), HIDDEN, HIDDEN, HIDDEN)


def run(stage: PostRankingStage, of: Sequence[int], asked: RequestContext) -> tuple[list[int], list[float], object]:
    """Item ids, scores, and the counts of the report, None where there is none."""
    applied, report = stage.run(ordered(of), asked)
    counts = report and (report.name, report.candidates_in, report.candidates_out)
    return applied.candidates.item_ids.tolist(), applied.scores.tolist(), counts


def test_preferred_genres_come_first_in_the_order_that_they_had_with_scores_by_position() -> None:
    """Even items are westerns."""
    ids, scores, report = run(PreferredGenresFirst(catalogue()), [7, 6, 3, 2], context(None, "Western"))
    assert ids == [6, 2, 7, 3]
    assert scores == pytest.approx([1 / np.log2(1 + position) for position in range(1, 5)])
    assert report == ("rerank", 4, 4)


@pytest.mark.parametrize("asked", [context(), context(History.of([5], [0]), "Western")], ids=["no genres", "history"])
def test_without_genres_or_with_a_history_nothing_moves_and_nothing_is_reported(asked: RequestContext) -> None:
    assert run(PreferredGenresFirst(catalogue()), [7, 6], asked) == ([7, 6], [2.0, 1.0], None)


def test_an_item_hidden_meanwhile_is_cut_and_the_others_keep_their_scores() -> None:
    assert run(HiddenItemsCut(lambda: np.asarray([6], np.int64)), [7, 6, 3], context()) == (
        [7, 3],
        [3.0, 1.0],
        ("filter", 3, 2),
    )


def test_a_list_of_hidden_items_that_cuts_nothing_leaves_no_report() -> None:
    assert run(HiddenItemsCut(lambda: np.asarray([9], np.int64)), [7, 6], context()) == ([7, 6], [2.0, 1.0], None)
    assert run(HiddenItemsCut(lambda: HIDDEN), [7, 6], context()) == ([7, 6], [2.0, 1.0], None)
