"""Queries and results of the ranker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.convert.values import (
    MAX_COUNT,
    as_of_from_proto,
    floats_from_proto,
    history_from_proto,
    history_to_proto,
    ids_from_proto,
    names_from_proto,
    refuse_where,
)
from recsys.domain import Candidates, RankQuery, Scores
from recsys.errors import ContractBroken, InvalidRequest
from recsys.ordering import has_repeats
from recsys.v1 import rank_pb2

_MAX_RANK = np.iinfo(np.int32).max


def candidates_from_proto(message: rank_pb2.RankQuery, field: str = "query") -> Candidates:
    """The candidates of a rank query, without seeds: those stay in the gateway.

    Raises:
        InvalidRequest: too many items, a repeated one, lists of different lengths, a score that is not finite.
    """
    ids = ids_from_proto(message.item_ids)
    n, channels = len(ids), message.channels
    if n > MAX_COUNT:
        raise InvalidRequest(f"{field}.item_ids: {n}, at most {MAX_COUNT} are allowed")
    if has_repeats(ids):
        raise InvalidRequest(f"{field}.item_ids: an item appears twice; send each candidate once")
    if len({channel.channel for channel in channels}) != len(channels):
        raise InvalidRequest(f"{field}.channels: a channel appears twice; send one entry per channel")
    scores, ranks = np.empty((len(channels), n), np.float32), np.empty((len(channels), n), np.int64)
    for row, channel in enumerate(channels):
        _check_length("ranks", len(channel.ranks), n, f"{field}.channels[{row}]")
        _check_length("scores", len(channel.scores), n, f"{field}.channels[{row}]")
        scores[row], ranks[row] = floats_from_proto(channel.scores), ids_from_proto(channel.ranks)
    _refuse_entries(ranks > _MAX_RANK, ranks, f"{field}.channels", "ranks", f"expected 0 to {_MAX_RANK}")
    unusable = (ranks > 0) & ~np.isfinite(scores)
    _refuse_entries(unusable, scores, f"{field}.channels", "scores", "expected a finite number")
    names = tuple(channel.channel for channel in channels)
    return Candidates.without_seeds(ids, names, scores.T, ranks.T.astype(np.int32))


def _check_length(name: str, found: int, expected: int, field: str) -> None:
    if found != expected:
        raise InvalidRequest(f"{field}.{name}: {found} entries for {expected} item_ids; expected {expected}")


def _refuse_entries(
    bad: NDArray[np.bool_], values: NDArray[np.int64] | Scores, field: str, name: str, expected: str
) -> None:
    """Refuses the first entry of the first row of `values` where `bad` is set; each row is one entry of `field`."""
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        refuse_where(bad[row], values[row], f"{field}[{row}].{name}", expected)


def candidates_to_proto(candidates: Candidates) -> list[rank_pb2.ChannelEvidence]:
    """What each channel said about the candidates, one message per channel."""
    scores, ranks = candidates.scores.T.tolist(), candidates.ranks.T.tolist()
    return [
        rank_pb2.ChannelEvidence(channel=channel, scores=scores[column], ranks=ranks[column])
        for column, channel in enumerate(candidates.channels)
    ]


def rank_query_from_proto(message: rank_pb2.RankQuery, field: str = "query") -> RankQuery:
    """The query; raises InvalidRequest, which names the field."""
    as_of = as_of_from_proto(message.as_of, f"{field}.as_of")
    return RankQuery(
        history_from_proto(message.history, as_of=as_of, field=f"{field}.history"),
        as_of,
        candidates_from_proto(message, field),
        names_from_proto(message.preferred_genres, f"{field}.preferred_genres"),
        message.user_id if message.HasField("user_id") else None,
    )


def rank_query_to_proto(query: RankQuery, *, return_features: bool = False) -> rank_pb2.RankQuery:
    """The message for the rank server."""
    return rank_pb2.RankQuery(
        user_id=query.user_id,
        history=history_to_proto(query.history),
        as_of=query.as_of,
        item_ids=query.candidates.item_ids.tolist(),
        channels=candidates_to_proto(query.candidates),
        preferred_genres=query.preferred_genres,
        return_features=return_features,
    )


def rank_result_from_proto(message: rank_pb2.RankResult) -> Scores:
    """float32[n]; length and finiteness are for `recsys.contracts.check_scores` to check."""
    return floats_from_proto(message.scores)


def rank_features_from_proto(message: rank_pb2.RankResult) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Names and values, float32[n, features], of the feature matrix, for a query that requested it."""
    names, values = tuple(message.feature_names), floats_from_proto(message.features)
    if len(values) != len(message.scores) * len(names):
        raise ContractBroken(f"{len(values)} feature values for {len(message.scores)} items and {len(names)} features")
    return names, values.reshape(len(message.scores), len(names))


def rank_result_to_proto(
    scores: Scores, features: NDArray[np.float32] | None = None, feature_names: Sequence[str] = ()
) -> rank_pb2.RankResult:
    """The message for the gateway; `features` is float32[n, len(feature_names)] if requested."""
    if features is None:
        return rank_pb2.RankResult(scores=scores.tolist())
    return rank_pb2.RankResult(scores=scores.tolist(), features=features.ravel().tolist(), feature_names=feature_names)
