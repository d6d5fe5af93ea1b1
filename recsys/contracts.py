"""Checks on both sides of a hop: the channel checks before it answers, the gateway before it uses the answer."""

from __future__ import annotations

import numpy as np

from recsys.domain import Mask, RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import ContractBroken
from recsys.ordering import has_repeats


def check_recall_result(name: str, query: RecallQuery, result: RecallResult) -> None:
    """Raises ContractBroken unless scores are finite and ordered, ids unique, and there are at most `count`."""
    if len(result.scores) != len(result.item_ids) or len(result) > query.count:
        raise ContractBroken(
            f"{name}: {len(result.item_ids)} ids and {len(result.scores)} scores for count {query.count}"
        )
    if not len(result):
        return
    if not _all(np.isfinite(result.scores)):
        raise ContractBroken(f"{name}: a score is not finite")
    before, after = result.scores[:-1], result.scores[1:]
    falls = after < before
    if not _all(falls) and not _all(falls | ((after == before) & (result.item_ids[1:] > result.item_ids[:-1]))):
        raise ContractBroken(f"{name}: candidates are not in order of score, then item id")
    if has_repeats(result.item_ids):
        raise ContractBroken(f"{name}: an item came back twice")


def check_scores(name: str, query: RankQuery, scores: Scores) -> None:
    """Raises ContractBroken unless there is one finite score per candidate."""
    if len(scores) != len(query.candidates):
        raise ContractBroken(f"{name}: {len(scores)} scores for {len(query.candidates)} candidates")
    if not _all(np.isfinite(scores)):
        raise ContractBroken(f"{name}: a score is not finite")


def _all(found: Mask) -> bool:
    """`found.all()` in half the time: these checks are made for every answer of every process."""
    return int(np.count_nonzero(found)) == len(found)
