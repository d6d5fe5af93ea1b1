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
    """The candidates of a rank query, without seeds: those stay at the gateway.

    Raises:
        InvalidRequest: too many items, a repeated one, lists that do not run in parallel, a score that is not finite.
    """
    ids = ids_from_proto(message.item_ids)
    n, channels = len(ids), message.channels
    if n > MAX_COUNT:
        raise InvalidRequest(f"{field}.item_ids: {n}, at most {MAX_COUNT} are allowed")
    if has_repeats(ids):
        raise InvalidRequest(f"{field}.item_ids: an item appears twice; send each candidate once")
    if len({channel.channel for channel in channels}) != len(channels):
        raise InvalidRequest(f"{field}.channels: a channel appears twice; send one entry per channel")
    scores = np.zeros((n, len(channels)), np.float32)
    ranks = np.zeros((n, len(channels)), np.int32)
    for column, channel in enumerate(channels):
        where = f"{field}.channels[{column}]"
        ranks[:, column] = _ranks(channel, n, where)
        scores[:, column] = _channel_scores(channel, n, where)
        unusable = (ranks[:, column] > 0) & ~np.isfinite(scores[:, column])
        refuse_where(unusable, scores[:, column], f"{where}.scores", "expected a finite number")
    return Candidates.without_seeds(ids, tuple(channel.channel for channel in channels), scores, ranks)


def _ranks(channel: rank_pb2.ChannelEvidence, n: int, field: str) -> NDArray[np.int32]:
    if len(channel.ranks) != n:
        raise InvalidRequest(f"{field}.ranks: {len(channel.ranks)} entries for {n} item_ids; expected {n}")
    ranks = ids_from_proto(channel.ranks)
    refuse_where(ranks > _MAX_RANK, ranks, f"{field}.ranks", f"expected 0 to {_MAX_RANK}")
    return ranks.astype(np.int32)


def _channel_scores(channel: rank_pb2.ChannelEvidence, n: int, field: str) -> Scores:
    if len(channel.scores) != n:
        raise InvalidRequest(f"{field}.scores: {len(channel.scores)} entries for {n} item_ids; expected {n}")
    return floats_from_proto(channel.scores)


def candidates_to_proto(candidates: Candidates) -> list[rank_pb2.ChannelEvidence]:
    """What each channel said about the candidates, one message per channel."""
    scores, ranks = candidates.scores.T.tolist(), candidates.ranks.T.tolist()
    return [
        rank_pb2.ChannelEvidence(channel=channel, scores=scores[column], ranks=ranks[column])
        for column, channel in enumerate(candidates.channels)
    ]


def rank_query_from_proto(message: rank_pb2.RankQuery, field: str = "query") -> RankQuery:
    """The query; raises InvalidRequest that names what is wrong with it."""
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
    """The names and values float32[n, features] of the feature matrix of a query that asked for it."""
    names, values = tuple(message.feature_names), floats_from_proto(message.features)
    if len(values) != len(message.scores) * len(names):
        raise ContractBroken(f"{len(values)} feature values for {len(message.scores)} items and {len(names)} features")
    return names, values.reshape(len(message.scores), len(names))


def rank_result_to_proto(
    scores: Scores, features: NDArray[np.float32] | None = None, feature_names: Sequence[str] = ()
) -> rank_pb2.RankResult:
    """The message for the gateway; `features` is float32[n, len(feature_names)] where it was asked for."""
    if features is None:
        return rank_pb2.RankResult(scores=scores.tolist())
    return rank_pb2.RankResult(scores=scores.tolist(), features=features.ravel().tolist(), feature_names=feature_names)
