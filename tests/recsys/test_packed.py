"""Packed lists: what they carry, what is refused, and that nothing but a clear error comes of anything else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys import convert
from recsys.domain import Candidates, EventType, History, RankQuery, RecallQuery, RecallResult
from recsys.errors import ContractBroken, InvalidRequest
from recsys.v1 import rank_pb2, recall_pb2, types_pb2

NOW = 1_000
FORMS = pytest.mark.parametrize("packed", [False, True], ids=["repeated", "packed"])

INT64 = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TIMES = st.integers(0, 2**63 - 1)
TYPES = st.sampled_from([int(kind) for kind in EventType])


def column(values: list[Any], dtype: Any) -> NDArray[Any]:
    return np.asarray(values, dtype)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Up to 12 events in order of time; few distinct items, so that some repeat."""
    n = draw(st.integers(0, 12))
    lists = [draw(st.lists(part, min_size=n, max_size=n)) for part in (st.integers(-2, 5) | INT64, TIMES, TYPES)]
    values = draw(st.lists(FINITE | st.just(float("nan")), min_size=n, max_size=n))
    return History.of(lists[0], sorted(lists[1]), types=lists[2], values=values)


@st.composite
def recall_results(draw: st.DrawFn) -> RecallResult:
    n = draw(st.integers(0, 8))
    ids, seeds = (column(draw(st.lists(INT64, min_size=n, max_size=n)), np.int64) for _ in range(2))
    scores = column(draw(st.lists(FINITE, min_size=n, max_size=n)), np.float32)
    present = column(draw(st.lists(st.booleans(), min_size=n, max_size=n)), np.bool_)
    return RecallResult(ids, scores, seeds, present) if n and draw(st.booleans()) else RecallResult(ids, scores)


@st.composite
def rank_queries(draw: st.DrawFn) -> RankQuery:
    ids = column(draw(st.lists(INT64, max_size=6, unique=True)), np.int64)
    names = tuple(draw(st.lists(st.text(max_size=3), max_size=3, unique=True)))
    n = len(ids) * len(names)
    scores = column(draw(st.lists(FINITE, min_size=n, max_size=n)), np.float32).reshape(len(ids), len(names))
    ranks = column(draw(st.lists(st.integers(0, 2**31 - 1), min_size=n, max_size=n)), np.int32).reshape(scores.shape)
    return RankQuery(draw(histories()), NOW, Candidates.without_seeds(ids, names, scores, ranks))


def assert_same(found: NDArray[Any] | None, expected: NDArray[Any] | None) -> None:
    """The same type, shape and bytes."""
    if found is None or expected is None:
        assert found is expected
        return
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def assert_same_history(found: History, expected: History) -> None:
    for name in ("item_ids", "timestamps", "types", "values"):
        assert_same(getattr(found, name), getattr(expected, name))


@FORMS
@given(history=histories(), excluded=st.lists(INT64, max_size=5))
def test_a_recall_query_arrives_as_it_was_sent(packed: bool, history: History, excluded: list[int]) -> None:
    query = RecallQuery(history, NOW, 7, column(excluded, np.int64), request_id="r-1")
    wire = convert.recall_query_to_proto(query, packed=packed).SerializeToString()
    found = convert.recall_query_from_proto(recall_pb2.RecallQuery.FromString(wire))
    assert_same_history(found.history, history)
    assert_same(found.exclude_item_ids, query.exclude_item_ids)
    assert (found.count, found.as_of, found.request_id) == (7, NOW, "r-1")


@FORMS
@given(result=recall_results())
def test_a_recall_result_arrives_as_it_was_sent(packed: bool, result: RecallResult) -> None:
    wire = convert.recall_result_to_proto(result, packed=packed).SerializeToString()
    message = recall_pb2.RecallResult.FromString(wire)
    found = convert.recall_result_from_proto(message)
    for name in ("item_ids", "scores", "seed_item_ids", "seed_present"):
        assert_same(getattr(found, name), getattr(result, name))
    assert convert.recall_result_size(message) == len(result)


@FORMS
@given(query=rank_queries())
def test_a_rank_query_arrives_as_it_was_sent(packed: bool, query: RankQuery) -> None:
    wire = convert.rank_query_to_proto(query, packed=packed).SerializeToString()
    message = rank_pb2.RankQuery.FromString(wire)
    found = convert.rank_query_from_proto(message)
    assert found.candidates.channels == query.candidates.channels
    for name in ("item_ids", "scores", "ranks"):
        assert_same(getattr(found.candidates, name), getattr(query.candidates, name))
        assert getattr(found.candidates, name).flags.c_contiguous
    assert_same_history(found.history, query.history)
    assert convert.candidate_count(message) == len(query.candidates)


@FORMS
@given(scores=st.lists(FINITE, max_size=6), columns=st.integers(0, 3))
def test_a_rank_result_arrives_as_it_was_sent(packed: bool, scores: list[float], columns: int) -> None:
    expected, names = column(scores, np.float32), tuple("abc"[:columns])
    features = np.arange(len(scores) * columns, dtype=np.float32).reshape(len(scores), columns)
    message = convert.rank_result_to_proto(expected, packed=packed)
    convert.rank_features_to_proto(features, names, message, packed=packed)
    message = rank_pb2.RankResult.FromString(message.SerializeToString())
    assert_same(convert.rank_result_from_proto(message), expected)
    found_names, found = convert.rank_features_from_proto(message)
    assert found_names == names
    assert_same(found, features)


def some_query() -> RecallQuery:
    history = History.of([5, 6, 6], [1, 2, 3], types=[1, 3, 2], values=[4.0, float("nan"), 1.0])
    return RecallQuery(history, NOW, 3, column([9, 6], np.int64))


def test_nobody_can_write_into_a_message() -> None:
    found = convert.recall_query_from_proto(convert.recall_query_to_proto(some_query(), packed=True))
    for array in (found.history.item_ids, found.history.timestamps, found.history.values, found.exclude_item_ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_only_one_form_is_filled_in() -> None:
    for packed in (False, True):
        message = convert.recall_query_to_proto(some_query(), packed=packed)
        assert {field.name.startswith("packed_") for field, _ in message.history.ListFields()} == {packed}
        assert len(message.exclude_item_ids) == (0 if packed else 2)
        assert len(message.packed_exclude_item_ids) == (16 if packed else 0)


def packed_history(**fields: bytes) -> types_pb2.History:
    return types_pb2.History(packed_item_ids=column([10, 20, 30], "<i8").tobytes(), **fields)


def test_types_that_are_not_specified_are_ratings() -> None:
    found = convert.history_from_proto(packed_history(packed_types=bytes([0, 5, 7])), as_of=NOW)
    assert found.types.tolist() == [EventType.RATING, EventType.DISLIKE, EventType.IMPRESSION]
    assert found.types.dtype == np.int8


def test_what_a_packed_history_leaves_out_has_the_same_meaning() -> None:
    found = convert.history_from_proto(packed_history(), as_of=NOW)
    assert_same_history(found, History.of([10, 20, 30], [NOW] * 3))


def test_the_two_forms_of_different_lists_may_meet() -> None:
    message = packed_history()
    message.timestamps.extend([7, 5, 7])
    assert convert.history_from_proto(message, as_of=NOW).item_ids.tolist() == [20, 10, 30]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (types_pb2.History(packed_item_ids=b"1234567"), "h.packed_item_ids: 7 bytes; expected a multiple of 8"),
        (packed_history(item_ids=[1]), "h.packed_item_ids: sent together with item_ids; send one of the two"),
        (packed_history(packed_timestamps=bytes(9)), "h.packed_timestamps: 9 bytes; expected a multiple of 8"),
        (packed_history(packed_timestamps=bytes(8)), "h.timestamps: 1 entries for 3 item_ids"),
        (packed_history(packed_types=bytes(2)), "h.types: 2 entries for 3 item_ids; expected none or 3"),
        (packed_history(packed_values=bytes(16)), "h.values: 4 entries for 3 item_ids"),
        (types_pb2.History(packed_values=bytes(4)), "h.values: 1 entries for 0 item_ids"),
        (packed_history(packed_timestamps=column([-1, 2, 3], "<i8").tobytes()), "h.timestamps[0]: -1; expected"),
        (packed_history(packed_timestamps=column([1, 2, -3], "<i8").tobytes()), "h.timestamps[2]: -3; expected"),
        (packed_history(packed_types=bytes([1, 8, 1])), "h.types[1]: 8; expected 0 to 7"),
        (packed_history(packed_types=bytes([1, 1, 255])), "h.types[2]: -1; expected 0 to 7"),
        (packed_history(packed_values=column([1, 2, np.inf], "<f4").tobytes()), "h.values[2]: inf; expected"),
    ],
)
def test_a_bad_packed_history_is_refused_by_field(message: types_pb2.History, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(complaint)):
        convert.history_from_proto(message, as_of=NOW, field="h")


def test_the_limit_of_a_public_history_holds_for_both_forms() -> None:
    message = types_pb2.History(packed_item_ids=np.arange(2_001, dtype="<i8").tobytes())
    with pytest.raises(InvalidRequest, match=r"history\.item_ids: 2001 events, at most 2000"):
        convert.history_from_proto(message, as_of=NOW, limit=2_000)


def packed_candidates(**fields: Any) -> rank_pb2.RankQuery:
    """Items 1 and 2 of channels a and b."""
    evidence = {
        "packed_item_ids": column([1, 2], "<i8").tobytes(),
        "packed_channels": ["a", "b"],
        "packed_scores": np.ones(4, "<f4").tobytes(),
        "packed_ranks": column([1, 2, 0, 1], "<i4").tobytes(),
    }
    return rank_pb2.RankQuery(**(evidence | fields))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"packed_item_ids": column([3, 3], "<i8").tobytes()}, "q.item_ids: an item appears twice"),
        ({"packed_item_ids": bytes(15)}, "q.packed_item_ids: 15 bytes; expected a multiple of 8"),
        ({"packed_item_ids": np.arange(2_001, dtype="<i8").tobytes()}, "q.item_ids: 2001, at most 2000"),
        ({"item_ids": [1, 2]}, "q.packed_item_ids: sent together with item_ids"),
        ({"channels": [{"channel": "c"}]}, "q.packed_channels: sent together with channels"),
        ({"packed_channels": ["a", "a"]}, "q.packed_channels: a channel appears twice"),
        ({"packed_channels": ["a"]}, "q.packed_scores: 16 bytes; expected 4 for each of 2 item_ids and 1 channels"),
        ({"packed_scores": b""}, "q.packed_scores: 0 bytes; expected 4 for each of 2 item_ids and 2 channels"),
        ({"packed_ranks": bytes(15)}, "q.packed_ranks: 15 bytes; expected 4 for each"),
        ({"packed_ranks": column([1, 2, -1, 1], "<i4").tobytes()}, "q.packed_ranks[2]: -1; expected 0 to 2147483647"),
        ({"packed_scores": column([1, np.nan, 1, 1], "<f4").tobytes()}, "q.packed_scores[1]: nan; expected a finite"),
    ],
)
def test_bad_packed_candidates_are_refused_by_field(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(complaint)):
        convert.rank_query_from_proto(packed_candidates(**fields), "q")


def test_the_packed_score_of_an_item_that_was_not_returned_means_nothing() -> None:
    message = packed_candidates(packed_scores=column([1, 1, np.nan, 1], "<f4").tobytes())
    assert convert.rank_query_from_proto(message).candidates.ranks.tolist() == [[1, 2], [0, 1]]


def packed_result(**fields: Any) -> recall_pb2.RecallResult:
    ids, scores = column([1, 2], "<i8").tobytes(), column([2, 1], "<f4").tobytes()
    return recall_pb2.RecallResult(**({"packed_item_ids": ids, "packed_scores": scores} | fields))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"packed_item_ids": bytes(17)}, "result.packed_item_ids: 17 bytes; expected a multiple of 8"),
        ({"packed_scores": bytes(6)}, "result.packed_scores: 6 bytes; expected a multiple of 4"),
        ({"packed_scores": bytes(12)}, "2 item_ids with 3 scores"),
        ({"scores": [1, 2]}, "result.packed_scores: sent together with scores"),
        ({"packed_seed_item_ids": bytes(16)}, "2 item_ids with 2 seed_item_ids and 0 seed_present"),
        ({"packed_seed_present": bytes(2)}, "2 item_ids with 0 seed_item_ids and 2 seed_present"),
        ({"packed_seed_item_ids": bytes(8), "packed_seed_present": b"1"}, "with 1 seed_item_ids and 1 seed_present"),
        ({"packed_seed_item_ids": bytes(3)}, "result.packed_seed_item_ids: 3 bytes; expected a multiple of 8"),
    ],
)
def test_a_bad_packed_result_breaks_the_contract(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ContractBroken, match=re.escape(complaint)):
        convert.recall_result_from_proto(packed_result(**fields))


def test_scores_and_features_that_are_cut_off_break_the_contract() -> None:
    with pytest.raises(ContractBroken, match=r"result\.packed_scores: 5 bytes; expected a multiple of 4"):
        convert.rank_result_from_proto(rank_pb2.RankResult(packed_scores=bytes(5)))
    message = rank_pb2.RankResult(packed_scores=bytes(4), packed_features=bytes(7), feature_names=["a"])
    with pytest.raises(ContractBroken, match=r"result\.packed_features: 7 bytes; expected a multiple of 4"):
        convert.rank_features_from_proto(message)
    with pytest.raises(ContractBroken, match="2 feature values for 1 items and 1 features"):
        convert.rank_features_from_proto(
            rank_pb2.RankResult(packed_scores=bytes(4), packed_features=bytes(8), feature_names=["a"])
        )


PACKED = st.binary(max_size=40) | st.integers(0, 5).map(lambda n: bytes(8 * n))
"""Bytes of any content and length; every other time a whole number of zeros, so that more is read than refused."""


def bytes_of(names: list[str]) -> st.SearchStrategy[dict[str, bytes]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, PACKED))


HISTORIES = bytes_of(["packed_item_ids", "packed_timestamps", "packed_types", "packed_values"])


def refused_by_field(read: Callable[[], object], error: type[Exception], *fields: str) -> bool:
    """Whether reading is refused, which must name one of the fields; otherwise it returns something."""
    message = ""
    try:
        read()
    except error as refusal:
        message = str(refusal)
    assert not message or any(field in message for field in fields), message
    return bool(message)


@given(history=HISTORIES, excluded=PACKED, exclude_seen=st.booleans())
def test_any_bytes_in_a_recall_query_are_read_or_refused(
    history: dict[str, bytes], excluded: bytes, exclude_seen: bool
) -> None:
    message = recall_pb2.RecallQuery(
        count=1, history=history, packed_exclude_item_ids=excluded, exclude_seen=exclude_seen
    )
    if not refused_by_field(lambda: convert.recall_query_from_proto(message, "q"), InvalidRequest, "q."):
        found = convert.recall_query_from_proto(message)
        n = len(history.get("packed_item_ids", b"")) // 8
        assert {len(part) for part in (found.history.timestamps, found.history.types, found.history.values)} == {n}
        assert (np.diff(found.history.timestamps) >= 0).all()
        assert (found.history.timestamps >= 0).all()
        assert set(found.history.types.tolist()) <= set(EventType)
        assert not np.isinf(found.history.values).any()


@given(
    fields=bytes_of(["packed_item_ids", "packed_scores", "packed_ranks"]),
    channels=st.lists(st.text(max_size=2), max_size=3),
    history=HISTORIES,
)
@example({"packed_item_ids": b"", "packed_scores": b"", "packed_ranks": b""}, ["a", "b"], {})
def test_any_bytes_in_a_rank_query_are_read_or_refused(
    fields: dict[str, bytes], channels: list[str], history: dict[str, bytes]
) -> None:
    message = rank_pb2.RankQuery(history=history, packed_channels=channels, **fields)
    if not refused_by_field(lambda: convert.rank_query_from_proto(message, "q"), InvalidRequest, "q."):
        found = convert.rank_query_from_proto(message).candidates
        assert found.scores.shape == found.ranks.shape == (len(found.item_ids), len(channels))
        assert np.isfinite(found.scores[found.ranks > 0]).all()
        assert (found.ranks >= 0).all()


@given(fields=bytes_of(["packed_item_ids", "packed_scores", "packed_seed_item_ids", "packed_seed_present"]))
def test_any_bytes_in_a_recall_result_are_read_or_refused(fields: dict[str, bytes]) -> None:
    message = recall_pb2.RecallResult(**fields)
    if not refused_by_field(lambda: convert.recall_result_from_proto(message), ContractBroken, "item_ids", "scores"):
        found = convert.recall_result_from_proto(message)
        assert len(found.item_ids) == len(found.scores)
        assert found.seed_item_ids is None or len(found.seed_item_ids) == len(found)
        assert found.seed_present is None or set(found.seed_present.view(np.uint8).tolist()) <= {0, 1}


@given(fields=bytes_of(["packed_scores", "packed_features"]), names=st.lists(st.text(max_size=2), max_size=3))
def test_any_bytes_in_a_rank_result_are_read_or_refused(fields: dict[str, bytes], names: list[str]) -> None:
    message = rank_pb2.RankResult(feature_names=names, **fields)
    if not refused_by_field(lambda: convert.rank_result_from_proto(message), ContractBroken, "packed_scores"):
        scores = convert.rank_result_from_proto(message)
        if not refused_by_field(lambda: convert.rank_features_from_proto(message), ContractBroken, "features"):
            assert convert.rank_features_from_proto(message)[1].shape == (len(scores), len(names))


def test_seen_items_travel_once() -> None:
    """Item 8 was saved: it is in the history, and may be returned."""
    history = History.of([5, 6, 8, 7], [1, 2, 3, 4], types=[1, 2, 6, 5])
    query = RecallQuery(history, NOW, 3, column([5, 6, 7, 9], np.int64), exclude_besides_history=column([9], np.int64))
    message = convert.recall_query_to_proto(query, packed=True)
    assert (message.exclude_seen, message.packed_exclude_item_ids) == (True, column([9], "<i8").tobytes())
    assert convert.recall_query_from_proto(message).exclude_item_ids.tolist() == [5, 6, 7, 9]
    older = convert.recall_query_to_proto(query)
    assert (older.exclude_seen, list(older.exclude_item_ids)) == (False, [5, 6, 7, 9])
