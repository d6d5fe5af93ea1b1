"""Metrics of lists beyond accuracy: novelty, diversity within a list, and calibration to the user's history.

Lists and histories are catalogue rows, one array per request; empty lists do not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline.rerank import MIXED_IN, cosines
from recsys.domain import Floats64, Ids, Mask


def novelty(lists: Sequence[Ids], event_counts: NDArray[np.int64]) -> float:
    """Mean over listed items of -log2 of the item's share of all events, in bits; every item has one event more.

    Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems", PNAS 2010.
    """
    counts = event_counts + 1.0
    bits = -np.log2(counts / counts.sum())
    shown = np.concatenate([*lists, np.empty(0, np.int64)]).astype(np.int64)
    return float(bits[shown].mean()) if len(shown) else 0.0


def intra_list_diversity(lists: Sequence[Ids], genres: Mask) -> float:
    """Mean over lists of 1 minus the mean cosine of the genres of two different items."""
    means = []
    for rows in lists:
        if len(rows) > 1:
            # The mean over ordered pairs of different positions: everything but the diagonal.
            similarity, n = cosines(genres[rows]), len(rows)
            means.append(1.0 - (similarity.sum() - np.trace(similarity)) / (n * (n - 1)))
    return float(np.mean(means)) if means else 0.0


def divergence(histories: Sequence[Ids], lists: Sequence[Ids], shares: Floats64) -> float:
    """Mean over requests of KL(p || q): p the history's distribution, q the list's with `MIXED_IN` p in it.

    `shares` is float64[items, classes]. Requests whose history or list has no known class do not
    count. Steck, "Calibrated Recommendations", RecSys 2018.
    """
    classes = shares.shape[1]
    past = np.asarray([shares[rows].sum(axis=0) for rows in histories]).reshape(-1, classes)
    shown = np.asarray([shares[rows].sum(axis=0) for rows in lists]).reshape(-1, classes)
    known = (past.sum(axis=1) > 0) & (shown.sum(axis=1) > 0)
    if not known.any():
        return 0.0
    p = past[known] / past[known].sum(axis=1, keepdims=True)
    q = (1 - MIXED_IN) * shown[known] / shown[known].sum(axis=1, keepdims=True) + MIXED_IN * p
    # p · log(p / q) is 0 where p is 0, whatever q is.
    ratios = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return float((p * np.log(ratios)).sum(axis=1).mean())
