"""Queries and results of a recall channel."""

from __future__ import annotations

import numpy as np

from recsys.convert.lists import WireList
from recsys.convert.values import (
    MAX_COUNT,
    as_of_from_proto,
    history_from_proto,
    history_to_proto,
    item_filter_from_proto,
    item_filter_to_proto,
    names_from_proto,
)
from recsys.domain import NO_FILTER, History, Ids, RecallQuery, RecallResult
from recsys.errors import ContractBroken, InvalidRequest
from recsys.v1 import recall_pb2

_EXCLUDED = WireList("exclude_item_ids", "<i8")
_ITEM_IDS = WireList("item_ids", "<i8")
_SCORES = WireList("scores", "<f4")
_SEED_ITEM_IDS = WireList("seed_item_ids", "<i8")
_SEED_PRESENT = WireList("seed_present", "|u1")


def recall_query_from_proto(message: recall_pb2.RecallQuery, field: str = "query") -> RecallQuery:
    """The query; raises InvalidRequest, which names the field."""
    if not 1 <= message.count <= MAX_COUNT:
        raise InvalidRequest(f"{field}.count: {message.count}; expected 1 to {MAX_COUNT}")
    as_of = as_of_from_proto(message.as_of, f"{field}.as_of")
    history = history_from_proto(message.history, as_of=as_of, field=f"{field}.history")
    return RecallQuery(
        history,
        as_of,
        message.count,
        _excluded(message, history, field),
        item_filter_from_proto(message.filter, f"{field}.filter") if message.HasField("filter") else NO_FILTER,
        names_from_proto(message.preferred_genres, f"{field}.preferred_genres"),
        message.user_id if message.HasField("user_id") else None,
        message.request_id,
    )


def _excluded(message: recall_pb2.RecallQuery, history: History, field: str) -> Ids:
    listed = _EXCLUDED.read(message, field)
    if not message.exclude_seen:
        return listed
    of_history = history.not_again_item_ids()
    return np.concatenate([of_history, listed]) if len(listed) else of_history


def recall_query_to_proto(
    query: RecallQuery, message: recall_pb2.RecallQuery | None = None, *, packed: bool = False
) -> recall_pb2.RecallQuery:
    """Fills in `message`, or a new one, for a server that reads packed lists and `exclude_seen` if `packed`."""
    message = recall_pb2.RecallQuery() if message is None else message
    if query.user_id is not None:
        message.user_id = query.user_id
    message.as_of, message.count, message.request_id = query.as_of, query.count, query.request_id
    history_to_proto(query.history, message.history, packed=packed)
    if query.item_filter:
        message.filter.CopyFrom(item_filter_to_proto(query.item_filter))
    if query.preferred_genres:
        message.preferred_genres.extend(query.preferred_genres)
    excluded = query.exclude_item_ids
    if packed and query.exclude_besides_history is not None:
        message.exclude_seen, excluded = True, query.exclude_besides_history
    _EXCLUDED.write(message, excluded, packed=packed)
    return message


def recall_result_from_proto(message: recall_pb2.RecallResult) -> RecallResult:
    """A channel's result; raises ContractBroken if the lists differ in length or are cut off.

    Order, uniqueness and finiteness are for `recsys.contracts.check_recall_result` to check.
    """
    item_ids = _ITEM_IDS.read(message, "result", ContractBroken)
    n, scores = len(item_ids), _SCORES.read(message, "result", ContractBroken)
    if len(scores) != n:
        raise ContractBroken(f"{n} item_ids with {len(scores)} scores; expected one per item")
    seeds = _SEED_ITEM_IDS.read(message, "result", ContractBroken)
    present = _SEED_PRESENT.read(message, "result", ContractBroken)
    if not len(seeds) and not len(present):
        return RecallResult(item_ids, scores)
    if (len(seeds), len(present)) != (n, n):
        raise ContractBroken(f"{n} item_ids with {len(seeds)} seed_item_ids and {len(present)} seed_present")
    return RecallResult(item_ids, scores, seeds, present.astype(np.bool_))


def recall_result_to_proto(
    result: RecallResult, message: recall_pb2.RecallResult | None = None, *, packed: bool = False
) -> recall_pb2.RecallResult:
    """Fills in `message`, or a new one, for a gateway that reads packed lists if `packed`."""
    message = recall_pb2.RecallResult() if message is None else message
    _ITEM_IDS.write(message, result.item_ids, packed=packed)
    _SCORES.write(message, result.scores, packed=packed)
    if result.seed_item_ids is not None and result.seed_present is not None:
        _SEED_ITEM_IDS.write(message, result.seed_item_ids, packed=packed)
        _SEED_PRESENT.write(message, result.seed_present, packed=packed)
    return message


def recall_result_size(message: recall_pb2.RecallResult) -> int:
    """Number of candidates in a message."""
    return _ITEM_IDS.size(message)
