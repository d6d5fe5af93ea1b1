"""How similar a candidate is to the user's past items, by the cosine of item vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Floats32
from recsys.features.events import MISSING
from recsys.features.user import UserProfile

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
_LAST_EVENT, _LAST_EVENTS, _SESSION, _RECENT, _ALL, _LIKED, _DISLIKED, _NEAREST, _NEIGHBOUR_RATING = range(
    len(SIMILARITY_NAMES)
)
_GROUPS = _NEAREST
"""Columns before it are the mean cosine with a group of events."""
LAST = 5
"""Events of `last5`."""
NEAREST_AMONG = 50
"""Number of the latest events that are compared one by one."""


def similarities(
    candidates: Floats32, past: Floats32, profile: UserProfile, *, in_session: NDArray[np.bool_]
) -> Floats32:
    """float32[n, len(SIMILARITY_NAMES)] of candidates with unit vectors float32[n, d].

    `past` is float32[events, d], oldest first: the events that `profile` is made of; `in_session` says which of them
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
    liked = profile.deviations >= 0
    # One row of event weights per group; a mean cosine is the product with the group's weighted mean vector.
    weights = np.zeros((_GROUPS, n), np.float32)
    weights[_LAST_EVENT, -1] = 1.0
    weights[_LAST_EVENTS, -LAST:] = 1.0
    weights[_SESSION] = in_session
    weights[_RECENT] = profile.recent
    weights[_ALL] = 1.0
    weights[_LIKED] = liked
    weights[_DISLIKED] = ~liked
    sums = weights.sum(axis=1, keepdims=True)
    means = (weights / np.maximum(sums, 1e-9)) @ past
    filled = np.flatnonzero(sums[:, 0] > 0)
    result[:, filled] = candidates @ means[filled].T
    # Each of the latest events by itself: the nearest, and the rating deviations weighted by positive cosines.
    one_by_one = candidates @ past[-NEAREST_AMONG:].T
    result[:, _NEAREST] = one_by_one.max(axis=1)
    near = np.maximum(one_by_one, 0.0)
    result[:, _NEIGHBOUR_RATING] = near @ profile.deviations[-NEAREST_AMONG:] / np.maximum(near.sum(axis=1), 1e-6)
    return result
