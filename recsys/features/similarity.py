"""How like the user's past items a candidate is, by the cosine of item vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.features.events import MISSING
from recsys.features.user import Taste

SIMILARITY_NAMES = (
    "cross_last_similarity",
    "cross_last5_similarity",
    "cross_session_similarity",
    "cross_recent_similarity",
    "cross_all_similarity",
    "cross_liked_similarity",
    "cross_disliked_similarity",
    "cross_nearest_similarity",
    "cross_neighbour_rating",
)
LAST = 5
NEAREST_AMONG = 50
"""So many of the latest events are compared one by one."""

Floats = NDArray[np.float32]


def similarities(candidates: Floats, past: Floats, taste: Taste, *, in_session: NDArray[np.bool_]) -> Floats:
    """float32[n, len(SIMILARITY_NAMES)] of candidates with unit vectors float32[n, d].

    `past` is float32[events, d], oldest first: the events that `taste` is made of; `in_session` says which of them
    belong to the last session.

    last, last5, session, recent, all   mean cosine with those events; `recent` by weight of recency
    liked, disliked                     mean cosine with events rated at least, less than the user's mean
    nearest                             the largest cosine with one of the last `NEAREST_AMONG` events
    neighbour_rating                    mean deviation of those events, weighted by cosine where that is positive

    `MISSING` where there is no such event.
    """
    result = np.full((len(candidates), len(SIMILARITY_NAMES)), MISSING, np.float32)
    n = len(past)
    if not n:
        return result
    liked = taste.deviations >= 0
    weights = np.zeros((7, n), np.float32)
    weights[0, -1] = 1.0
    weights[1, -LAST:] = 1.0
    weights[2] = in_session
    weights[3] = taste.recent
    weights[4] = 1.0
    weights[5] = liked
    weights[6] = ~liked
    sums = weights.sum(axis=1, keepdims=True)
    means = (weights / np.maximum(sums, 1e-9)) @ past
    told = np.flatnonzero(sums[:, 0] > 0)
    result[:, told] = candidates @ means[told].T
    one_by_one = candidates @ past[-NEAREST_AMONG:].T
    result[:, 7] = one_by_one.max(axis=1)
    near = np.maximum(one_by_one, 0.0)
    result[:, 8] = near @ taste.deviations[-NEAREST_AMONG:] / np.maximum(near.sum(axis=1), 1e-6)
    return result
