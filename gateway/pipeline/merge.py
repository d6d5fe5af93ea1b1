"""From one list per channel to one list of candidates that keeps what every channel said about them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recsys.bundle import ServingPolicy
from recsys.domain import Candidates, RecallResult, Scores
from recsys.kernels import COMPILED
from recsys.ordering import distinct, order_by_score

if COMPILED:
    from recsys.kernels import _merging

FALLBACK = "fallback"
"""Channel name of the gateway's own popularity list."""


def merge(results: Mapping[str, RecallResult]) -> Candidates:
    """The union of the channels' items, in order of item id, with one score, rank and seed column per channel."""
    if not COMPILED:
        return merge_by_numpy(results)
    parts = list(results.values())
    lists = (
        [part.item_ids for part in parts],
        [part.scores for part in parts],
        [part.seed_item_ids for part in parts],
        [part.seed_present for part in parts],
    )
    item_ids, scores, ranks, seed_item_ids, seed_present = _merging.merge(*lists)
    return Candidates(item_ids, tuple(results), scores, ranks, seed_item_ids, seed_present)


def merge_by_numpy(results: Mapping[str, RecallResult]) -> Candidates:
    """`merge` without a kernel."""
    names = tuple(results)
    item_ids = distinct(np.concatenate([result.item_ids for result in results.values()] or [np.empty(0, np.int64)]))
    shape = (len(item_ids), len(names))
    merged = Candidates.without_seeds(item_ids, names, np.zeros(shape, np.float32), np.zeros(shape, np.int32))
    for column, result in enumerate(results.values()):
        rows = np.searchsorted(item_ids, result.item_ids)
        merged.scores[rows, column] = result.scores
        merged.ranks[rows, column] = np.arange(1, len(result) + 1, dtype=np.int32)
        if result.seed_item_ids is not None and result.seed_present is not None:
            merged.seed_item_ids[rows, column] = result.seed_item_ids
            merged.seed_present[rows, column] = result.seed_present
    return merged


def blended_scores(candidates: Candidates, policy: ServingPolicy) -> Scores:
    """float32[n]: weighted reciprocal rank fusion, the sum over channels of weight / (k + rank).

    Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009. A channel that is not in
    the policy (the fallback) weighs less than any other, so that it only fills up.
    """
    known = {channel.name: channel.weight for channel in policy.channels}
    weights = np.asarray([known.get(name, 1e-6) for name in candidates.channels], np.float64)
    blend = _merging.blend if COMPILED else blend_by_numpy
    return blend(candidates.ranks, weights, policy.blend_constant)


def blend_by_numpy(ranks: NDArray[np.int32], weights: NDArray[np.float64], constant: float) -> Scores:
    """The sum of `blended_scores` without a kernel."""
    shares = np.where(ranks > 0, weights / (constant + ranks), 0.0)
    blended: Scores = shares.sum(axis=1).astype(np.float32)
    return blended


def best_first(candidates: Candidates, scores: Scores) -> tuple[Candidates, Scores]:
    """Candidates and scores in descending order of score, ties by item id."""
    order = order_by_score(scores, candidates.item_ids)
    return candidates.take(order), scores[order]
