"""How well an item fits a user, and what each channel said of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Candidates
from recsys.features.events import MISSING
from recsys.features.user import ItemTraits, Taste

CROSS_NAMES = (
    "cross_genre_affinity",
    "cross_recent_genre_affinity",
    "cross_genre_rating",
    "cross_decade_share",
    "cross_year_deviation",
    "cross_recent_year_distance",
    "cross_rating_deviation",
    "cross_popularity_deviation",
    "cross_recent_popularity_deviation",
    "cross_new_since_last",
)

NOT_RETURNED_RANK = 2_001.0
"""Behind every rank that a channel can give, so that a better rank is always a smaller number."""
NOT_RETURNED_RELATIVE = -1.0
"""Below the relative score of the worst item that a channel returned."""
FUSION_CONSTANT = 60.0
"""k of reciprocal rank fusion with equal weights, 1 / (k + rank)."""


FUSED = "fused_rank"
"""The column that is an order of its own: higher is better, and it needs no training."""


def evidence_names(channels: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `evidence`."""
    parts = ("relative_score", "rank")
    own = tuple(f"{channel}_{part}" for channel in channels for part in parts)
    return (*own, "channels_returned", "best_rank", FUSED)


def crosses(rows: NDArray[np.int64], traits: ItemTraits, taste: Taste) -> NDArray[np.float32]:
    """float32[len(rows), len(CROSS_NAMES)]: items at catalogue rows `rows` against one user's taste."""
    result = np.empty((len(rows), len(CROSS_NAMES)), np.float32)
    result[:, :3] = traits.genres[rows] @ taste.genres
    years = traits.years[rows]
    known = years != MISSING
    result[:, 3] = np.where(known, taste.decades[traits.decades[rows]], 0.0)
    result[:, 4] = _deviation(years, taste.mean_year)
    recent = _deviation(years, taste.recent_year)
    result[:, 5] = np.where(recent == MISSING, MISSING, np.abs(recent))
    result[:, 6] = _deviation(traits.ratings[rows], taste.mean_rating)
    result[:, 7] = _deviation(traits.popularity[rows], taste.mean_popularity)
    result[:, 8] = _deviation(traits.popularity[rows], taste.recent_popularity)
    result[:, 9] = _deviation(traits.days_since_first[rows], taste.days_since_last)
    return result


def evidence(candidates: Candidates, channels: Sequence[str]) -> NDArray[np.float32]:
    """float32[n, len(evidence_names(channels))]: per channel its score, from 0 (worst) to 1 (best) among these
    candidates, and its rank; then what all say together: how many returned the item, its best rank, and the sum of
    1 / (60 + rank). `NOT_RETURNED_RELATIVE` and `NOT_RETURNED_RANK` where a channel did not return the item.

    Raw scores are left out on purpose: their scale changes from one training of a channel to the next.
    Channels of the candidates that are not in `channels` (the gateway's fallback) say nothing.
    """
    n = len(candidates)
    nothing = (NOT_RETURNED_RELATIVE, NOT_RETURNED_RANK)
    result = np.tile(np.asarray([*nothing * len(channels), 0.0, 0.0, 0.0], np.float32), (n, 1))
    best = np.full(n, NOT_RETURNED_RANK, np.float32)
    fused, returned_by = np.zeros(n, np.float32), np.zeros(n, np.float32)
    for position, channel in enumerate(channels):
        if channel not in candidates.channels:
            continue
        column = candidates.channels.index(channel)
        ranks = candidates.ranks[:, column]
        returned = np.flatnonzero(ranks)
        if not len(returned):
            continue
        places = ranks[returned].astype(np.float32)
        result[returned, 2 * position] = _relative(candidates.scores[returned, column])
        result[returned, 2 * position + 1] = places
        best[returned] = np.minimum(best[returned], places)
        fused[returned] += 1.0 / (FUSION_CONSTANT + places)
        returned_by[returned] += 1.0
    result[:, -3] = returned_by
    result[:, -2] = best
    result[:, -1] = fused
    return result


def _deviation(values: NDArray[np.float32], habit: float) -> NDArray[np.float32]:
    if habit == MISSING:
        return np.full(len(values), MISSING, np.float32)
    return np.where(values == MISSING, np.float32(MISSING), values - np.float32(habit))


def _relative(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.ones_like(scores)
