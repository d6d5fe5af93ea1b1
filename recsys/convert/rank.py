"""Queries and results of the ranker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.convert.lists import WireList, to_packed
from recsys.convert.values import (
    MAX_COUNT,
    as_of_from_proto,
    beyond,
    history_from_proto,
    history_to_proto,
    names_from_proto,
    refuse_where,
)
from recsys.domain import Candidates, RankQuery, Scores
from recsys.errors import ContractBroken, InvalidRequest
from recsys.ordering import has_repeats
from recsys.v1 import rank_pb2

_MAX_RANK = np.iinfo(np.int32).max
_FLOAT32, _INT32 = np.dtype("<f4"), np.dtype("<i4")

_ITEM_IDS = WireList("item_ids", "<i8")
_SCORES = WireList("scores", "<f4")
_FEATURES = WireList("features", "<f4")

_Evidence = tuple[tuple[str, ...], NDArray[np.float32], NDArray[np.int32]]
"""Names of channels; their scores and ranks, [n, channels]."""


def candidates_from_proto(message: rank_pb2.RankQuery, field: str = "query") -> Candidates:
    """The candidates of a rank query, without seeds: those stay in the gateway.

    Raises:
        InvalidRequest: too many items, a repeated one, lists of different lengths or cut off, evidence in both forms, a
            rank out of range, a score that is not finite.
    """
    n = _ITEM_IDS.size(message)
    if n > MAX_COUNT:
        raise InvalidRequest(f"{field}.item_ids: {n}, at most {MAX_COUNT} are allowed")
    item_ids = _ITEM_IDS.read(message, field)
    if has_repeats(item_ids):
        raise InvalidRequest(f"{field}.item_ids: an item appears twice; send each candidate once")
    packed = message.packed_channels or message.packed_scores or message.packed_ranks
    names, scores, ranks = (_packed_evidence if packed else _repeated_evidence)(message, n, field)
    return Candidates.without_seeds(item_ids, names, scores, ranks)


def _packed_evidence(message: rank_pb2.RankQuery, n: int, field: str) -> _Evidence:
    if message.channels:
        raise InvalidRequest(f"{field}.packed_channels: sent together with channels; send one of the two")
    names = tuple(message.packed_channels)
    _refuse_twice(names, f"{field}.packed_channels")
    scores = _packed_matrix(message.packed_scores, _FLOAT32, (n, len(names)), f"{field}.packed_scores")
    ranks = _packed_matrix(message.packed_ranks, _INT32, (n, len(names)), f"{field}.packed_ranks")
    _refuse_evidence(scores.ravel(), ranks.ravel(), f"{field}.packed_scores", f"{field}.packed_ranks")
    return names, scores, ranks


def _packed_matrix(packed: bytes, dtype: np.dtype[Any], shape: tuple[int, int], field: str) -> NDArray[Any]:
    if len(packed) != shape[0] * shape[1] * dtype.itemsize:
        expected = f"expected {dtype.itemsize} for each of {shape[0]} item_ids and {shape[1]} channels"
        raise InvalidRequest(f"{field}: {len(packed)} bytes; {expected}")
    return np.frombuffer(packed, dtype).reshape(shape)


def _repeated_evidence(message: rank_pb2.RankQuery, n: int, field: str) -> _Evidence:
    names = tuple(channel.channel for channel in message.channels)
    _refuse_twice(names, f"{field}.channels")
    for column, channel in enumerate(message.channels):
        _check_length("ranks", len(channel.ranks), n, f"{field}.channels[{column}]")
        _check_length("scores", len(channel.scores), n, f"{field}.channels[{column}]")
    scores, ranks = np.empty((n, len(names)), np.float32), np.empty((n, len(names)), np.int32)
    for column, channel in enumerate(message.channels):
        path = f"{field}.channels[{column}]"
        of_channel, wide = np.array(channel.scores[:], np.float32), np.fromiter(channel.ranks, np.int64, n)
        _refuse_evidence(of_channel, wide, f"{path}.scores", f"{path}.ranks")
        scores[:, column], ranks[:, column] = of_channel, wide
    return names, scores, ranks


def _refuse_twice(names: tuple[str, ...], field: str) -> None:
    if len(set(names)) != len(names):
        raise InvalidRequest(f"{field}: a channel appears twice; send one entry per channel")


def _check_length(name: str, found: int, expected: int, field: str) -> None:
    if found != expected:
        raise InvalidRequest(f"{field}.{name}: {found} entries for {expected} item_ids; expected {expected}")


def _refuse_evidence(scores: Scores, ranks: NDArray[Any], field_of_scores: str, field_of_ranks: str) -> None:
    """A score means something where there is a rank; there it must be finite."""
    refuse_where(beyond(ranks, _MAX_RANK), ranks, field_of_ranks, f"expected 0 to {_MAX_RANK}")
    finite = np.isfinite(scores)
    if np.count_nonzero(finite) < len(scores):
        refuse_where((ranks > 0) & ~finite, scores, field_of_scores, "expected a finite number")


def rank_query_from_proto(message: rank_pb2.RankQuery, field: str = "query") -> RankQuery:
    """The query; raises InvalidRequest, which names the field."""
    as_of = as_of_from_proto(message.as_of, f"{field}.as_of")
    return RankQuery(
        history_from_proto(message.history, as_of=as_of, field=f"{field}.history"),
        as_of,
        candidates_from_proto(message, field),
        names_from_proto(message.preferred_genres, f"{field}.preferred_genres"),
        message.user_id if message.HasField("user_id") else None,
        message.request_id,
    )


def rank_query_to_proto(
    query: RankQuery, message: rank_pb2.RankQuery | None = None, *, return_features: bool = False, packed: bool = False
) -> rank_pb2.RankQuery:
    """Fills in `message`, or a new one, for a server that reads packed lists if `packed`."""
    message = rank_pb2.RankQuery() if message is None else message
    if query.user_id is not None:
        message.user_id = query.user_id
    message.as_of, message.request_id, message.return_features = query.as_of, query.request_id, return_features
    history_to_proto(query.history, message.history, packed=packed)
    if query.preferred_genres:
        message.preferred_genres.extend(query.preferred_genres)
    candidates = query.candidates
    _ITEM_IDS.write(message, candidates.item_ids, packed=packed)
    if packed:
        message.packed_channels.extend(candidates.channels)
        message.packed_scores = to_packed(candidates.scores, _FLOAT32)
        message.packed_ranks = to_packed(candidates.ranks, _INT32)
    else:
        message.channels.extend(_channel_evidence(candidates))
    return message


def _channel_evidence(candidates: Candidates) -> list[rank_pb2.ChannelEvidence]:
    """What each channel said about the candidates, one message per channel."""
    scores, ranks = candidates.scores.T.tolist(), candidates.ranks.T.tolist()
    return [
        rank_pb2.ChannelEvidence(channel=channel, scores=scores[column], ranks=ranks[column])
        for column, channel in enumerate(candidates.channels)
    ]


def candidate_count(message: rank_pb2.RankQuery) -> int:
    """Number of candidates in a message."""
    return _ITEM_IDS.size(message)


def rank_result_from_proto(message: rank_pb2.RankResult) -> Scores:
    """float32[n]; length and finiteness are for `recsys.contracts.check_scores` to check.

    Raises ContractBroken if the scores are cut off, or come in both forms.
    """
    return _SCORES.read(message, "result", ContractBroken)


def rank_features_from_proto(message: rank_pb2.RankResult) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Names and values, float32[n, features], of the feature matrix, for a query that requested it."""
    names, n = tuple(message.feature_names), _SCORES.size(message)
    values = _FEATURES.read(message, "result", ContractBroken)
    if len(values) != n * len(names):
        raise ContractBroken(f"{len(values)} feature values for {n} items and {len(names)} features")
    return names, values.reshape(n, len(names))


def rank_result_to_proto(
    scores: Scores, message: rank_pb2.RankResult | None = None, *, packed: bool = False
) -> rank_pb2.RankResult:
    """Fills in `message`, or a new one, for a gateway that reads packed lists if `packed`."""
    message = rank_pb2.RankResult() if message is None else message
    _SCORES.write(message, scores, packed=packed)
    return message


def rank_features_to_proto(
    features: NDArray[np.float32], names: Sequence[str], message: rank_pb2.RankResult, *, packed: bool = False
) -> None:
    """Adds the feature matrix, float32[n, len(names)], to a result."""
    _FEATURES.write(message, features.ravel(), packed=packed)
    message.feature_names.extend(names)
