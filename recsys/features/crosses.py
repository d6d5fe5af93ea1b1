"""How well an item fits a user, and the evidence of each recall channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Candidates
from recsys.features.events import MISSING
from recsys.features.queries import channel_evidence
from recsys.features.user import HABITS, ItemTraits, UserProfile

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
_GENRES = slice(CROSS_NAMES.index("cross_genre_affinity"), CROSS_NAMES.index("cross_genre_rating") + 1)
_DECADE_SHARE = CROSS_NAMES.index("cross_decade_share")
_DEVIATIONS = slice(CROSS_NAMES.index("cross_year_deviation"), len(CROSS_NAMES))
"""One column per entry of `HABITS`, in that order."""
_RECENT_YEAR_DISTANCE = CROSS_NAMES.index("cross_recent_year_distance")
_YEAR, _RECENT_YEAR = HABITS.index("year"), HABITS.index("recent_year")

NOT_RETURNED_RANK = 2_001.0
"""Larger than every rank that a channel can give, so that a better rank is always a smaller number."""
NOT_RETURNED_RELATIVE = -1.0
"""Below the relative score of the worst item that a channel returned."""
FUSION_CONSTANT = 60.0
"""k of reciprocal rank fusion with equal weights, the sum of 1 / (k + rank) (Cormack, Clarke, Büttcher, SIGIR 2009)."""

FUSED = "fused_rank"
"""The column that orders candidates without training: higher is better."""
_SUMMARY = ("channels_returned", "best_rank", FUSED)
"""Columns over all channels, which follow those of each channel."""


def evidence_names(channels: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `evidence`."""
    parts = ("relative_score", "rank")
    own = tuple(f"{channel}_{part}" for channel in channels for part in parts)
    return (*own, *_SUMMARY)


def crosses(rows: NDArray[np.int64], traits: ItemTraits, profile: UserProfile) -> NDArray[np.float32]:
    """float32[len(rows), len(CROSS_NAMES)]: items at catalogue rows `rows` compared with one user's profile."""
    result = np.empty((len(rows), len(CROSS_NAMES)), np.float32)
    # The user's mean over the item's genres, whose shares sum to 1: share of events, of recent ones, rating deviation.
    result[:, _GENRES] = traits.genres.take(rows, axis=0) @ profile.genres
    # The item's value less the user's usual one, where both are known; only the recent year's distance has no sign.
    item_values = traits.compared.take(rows, axis=0)
    known = (item_values != MISSING) & (profile.habits != MISSING)
    deviations = np.where(known, item_values - profile.habits, np.float32(MISSING))
    result[:, _DEVIATIONS] = deviations
    distance = np.abs(deviations[:, _RECENT_YEAR])
    result[:, _RECENT_YEAR_DISTANCE] = np.where(known[:, _RECENT_YEAR], distance, np.float32(MISSING))
    # The share of the user's events that fall into the item's decade.
    shares = profile.decades[traits.decades[rows]]
    result[:, _DECADE_SHARE] = np.where(item_values[:, _YEAR] != MISSING, shares, np.float32(0))
    return result


def evidence(candidates: Candidates, channels: tuple[str, ...]) -> NDArray[np.float32]:
    """float32[n, len(evidence_names(channels))]: per channel its score, from 0 (worst) to 1 (best) among these
    candidates, and its rank; then over all channels how many returned the item, its best rank, and reciprocal rank
    fusion, the sum of 1 / (`FUSION_CONSTANT` + rank). A channel that did not return the item has the score
    `NOT_RETURNED_RELATIVE` and the rank `NOT_RETURNED_RANK`.

    Raw scores are left out on purpose: their scale changes from one training of a channel to the next.
    Channels of the candidates that are not in `channels` (the gateway's fallback) have no columns.
    """
    scores, given = channel_evidence(candidates, channels)
    n, width = scores.shape
    ranks = given.astype(np.float32)
    returned = ranks > 0
    # Two columns a channel, side by side: relative score and rank.
    of_channels = 2 * width
    result = np.empty((n, of_channels + len(_SUMMARY)), np.float32)
    result[:, 0:of_channels:2] = np.where(returned, _relative(scores, returned), NOT_RETURNED_RELATIVE)
    result[:, 1:of_channels:2] = filled = np.where(returned, ranks, np.float32(NOT_RETURNED_RANK))
    # Then the columns of `_SUMMARY`.
    result[:, of_channels + _SUMMARY.index("channels_returned")] = returned.sum(axis=1)
    result[:, of_channels + _SUMMARY.index("best_rank")] = filled.min(axis=1, initial=NOT_RETURNED_RANK)
    fused = (returned / (np.float32(FUSION_CONSTANT) + ranks)).sum(axis=1)
    result[:, of_channels + _SUMMARY.index(FUSED)] = fused
    return result


def _relative(scores: NDArray[np.float32], returned: NDArray[np.bool_]) -> NDArray[np.float32]:
    """float32[n, channels]: 0 for the worst returned score of a channel, 1 for the best; 1 where all are equal."""
    low = np.where(returned, scores, np.float32(np.inf)).min(axis=0, initial=np.inf)
    high = np.where(returned, scores, np.float32(-np.inf)).max(axis=0, initial=-np.inf)
    spread = high > low
    return np.where(spread, (scores - low) / np.where(spread, high - low, np.float32(1)), np.float32(1))
