"""Queries and results of a recall channel."""

from __future__ import annotations

import numpy as np

from recsys.convert.values import (
    MAX_COUNT,
    as_of_from_proto,
    floats_from_proto,
    history_from_proto,
    history_to_proto,
    ids_from_proto,
    item_filter_from_proto,
    item_filter_to_proto,
    names_from_proto,
)
from recsys.domain import NO_FILTER, RecallQuery, RecallResult
from recsys.errors import ContractBroken, InvalidRequest
from recsys.v1 import recall_pb2


def recall_query_from_proto(message: recall_pb2.RecallQuery, field: str = "query") -> RecallQuery:
    """The query; raises InvalidRequest, which names the field."""
    if not 1 <= message.count <= MAX_COUNT:
        raise InvalidRequest(f"{field}.count: {message.count}; expected 1 to {MAX_COUNT}")
    as_of = as_of_from_proto(message.as_of, f"{field}.as_of")
    return RecallQuery(
        history_from_proto(message.history, as_of=as_of, field=f"{field}.history"),
        as_of,
        message.count,
        ids_from_proto(message.exclude_item_ids),
        item_filter_from_proto(message.filter, f"{field}.filter") if message.HasField("filter") else NO_FILTER,
        names_from_proto(message.preferred_genres, f"{field}.preferred_genres"),
        message.user_id if message.HasField("user_id") else None,
    )


def recall_query_to_proto(query: RecallQuery) -> recall_pb2.RecallQuery:
    """The message for a recall server."""
    return recall_pb2.RecallQuery(
        user_id=query.user_id,
        history=history_to_proto(query.history),
        as_of=query.as_of,
        count=query.count,
        exclude_item_ids=query.exclude_item_ids.tolist(),
        filter=item_filter_to_proto(query.item_filter) if query.item_filter else None,
        preferred_genres=query.preferred_genres,
    )


def recall_result_from_proto(message: recall_pb2.RecallResult) -> RecallResult:
    """A channel's result; raises ContractBroken if the lists differ in length.

    Order, uniqueness and finiteness are for `recsys.contracts.check_recall_result` to check.
    """
    n = len(message.item_ids)
    if len(message.scores) != n:
        raise ContractBroken(f"{n} item_ids with {len(message.scores)} scores; expected one per item")
    seeds = (len(message.seed_item_ids), len(message.seed_present))
    if seeds not in ((0, 0), (n, n)):
        raise ContractBroken(f"{n} item_ids with {seeds[0]} seed_item_ids and {seeds[1]} seed_present")
    ids, scores = ids_from_proto(message.item_ids), floats_from_proto(message.scores)
    if not seeds[0]:
        return RecallResult(ids, scores)
    return RecallResult(
        ids, scores, ids_from_proto(message.seed_item_ids), np.fromiter(message.seed_present, np.bool_, n)
    )


def recall_result_to_proto(result: RecallResult) -> recall_pb2.RecallResult:
    """The message for the gateway."""
    message = recall_pb2.RecallResult(item_ids=result.item_ids.tolist(), scores=result.scores.tolist())
    if result.seed_item_ids is not None and result.seed_present is not None:
        message.seed_item_ids.extend(result.seed_item_ids.tolist())
        message.seed_present.extend(result.seed_present.tolist())
    return message
