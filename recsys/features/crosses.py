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
    result[:, :3] = traits.genres.take(rows, axis=0) @ taste.genres
    found = traits.compared.take(rows, axis=0)
    told = (found != MISSING) & (taste.habits != MISSING)
    deviations = np.where(told, found - taste.habits, np.float32(MISSING))
    result[:, 3] = np.where(found[:, 0] != MISSING, taste.decades[traits.decades[rows]], np.float32(0))
    result[:, 4:] = deviations
    result[:, 5] = np.where(told[:, 1], np.abs(deviations[:, 1]), np.float32(MISSING))
    return result


def evidence(candidates: Candidates, channels: Sequence[str]) -> NDArray[np.float32]:
    """float32[n, len(evidence_names(channels))]: per channel its score, from 0 (worst) to 1 (best) among these
    candidates, and its rank; then what all say together: how many returned the item, its best rank, and the sum of
    1 / (60 + rank). `NOT_RETURNED_RELATIVE` and `NOT_RETURNED_RANK` where a channel did not return the item.

    Raw scores are left out on purpose: their scale changes from one training of a channel to the next.
    Channels of the candidates that are not in `channels` (the gateway's fallback) say nothing.
    """
    n, width = len(candidates), len(channels)
    scores, ranks = np.zeros((n, width), np.float32), np.zeros((n, width), np.float32)
    for position, channel in enumerate(channels):
        if channel in candidates.channels:
            column = candidates.channels.index(channel)
            scores[:, position], ranks[:, position] = candidates.scores[:, column], candidates.ranks[:, column]
    returned = ranks > 0
    result = np.empty((n, 2 * width + 3), np.float32)
    result[:, 0 : 2 * width : 2] = np.where(returned, _relative(scores, returned), NOT_RETURNED_RELATIVE)
    result[:, 1 : 2 * width : 2] = places = np.where(returned, ranks, np.float32(NOT_RETURNED_RANK))
    result[:, -3] = returned.sum(axis=1)
    result[:, -2] = places.min(axis=1, initial=NOT_RETURNED_RANK)
    result[:, -1] = (returned / (np.float32(FUSION_CONSTANT) + ranks)).sum(axis=1)
    return result


def _relative(scores: NDArray[np.float32], returned: NDArray[np.bool_]) -> NDArray[np.float32]:
    """float32[n, channels]: 0 for the worst returned score of a channel, 1 for the best; 1 where all are equal."""
    low = np.where(returned, scores, np.float32(np.inf)).min(axis=0, initial=np.inf)
    high = np.where(returned, scores, np.float32(-np.inf)).max(axis=0, initial=-np.inf)
    spread = high > low
    return np.where(spread, (scores - low) / np.where(spread, high - low, np.float32(1)), np.float32(1))
