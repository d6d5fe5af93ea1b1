from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from recsys import convert
from recsys.domain import Candidates, EventType, History, ItemFilter, RankQuery, RecallQuery, RecallResult
from recsys.errors import ContractBroken, InvalidRequest
from recsys.v1 import rank_pb2, recall_pb2, types_pb2

NOW = 1_000


def history_message(**fields: object) -> types_pb2.History:
    return types_pb2.History(item_ids=[10, 20, 30], **fields)  # type: ignore[arg-type]


def assert_same_history(found: History, expected: History) -> None:
    for name in ("item_ids", "timestamps", "types", "values"):
        assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_what_a_history_leaves_out_has_a_meaning() -> None:
    found = convert.history_from_proto(history_message(), as_of=NOW)
    expected = History.of([10, 20, 30], [NOW] * 3, types=[EventType.RATING] * 3, values=[math.nan] * 3)
    assert_same_history(found, expected)


def test_an_unspecified_type_is_a_rating() -> None:
    found = convert.history_from_proto(history_message(types=[0, 5, 7]), as_of=NOW)
    assert found.types.tolist() == [EventType.RATING, EventType.DISLIKE, EventType.IMPRESSION]


def test_an_unsorted_history_is_sorted_stably_with_all_its_lists() -> None:
    message = history_message(timestamps=[7, 5, 7], types=[1, 2, 3], values=[1.0, math.nan, 3.0])
    found = convert.history_from_proto(message, as_of=NOW)
    assert found.item_ids.tolist() == [20, 10, 30]
    assert found.timestamps.tolist() == [5, 7, 7]
    assert found.types.tolist() == [2, 1, 3]
    assert_array_equal(found.values, np.asarray([math.nan, 1.0, 3.0], np.float32))


def test_an_empty_history_is_empty() -> None:
    assert_same_history(convert.history_from_proto(types_pb2.History(), as_of=NOW), History.empty())


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (history_message(timestamps=[1]), r"h\.timestamps: 1 entries for 3 item_ids; expected none or 3"),
        (history_message(types=[1, 2]), r"h\.types: 2 entries for 3 item_ids"),
        (history_message(values=[1, 2, 3, 4]), r"h\.values: 4 entries for 3 item_ids"),
        (types_pb2.History(values=[1]), r"h\.values: 1 entries for 0 item_ids"),
        (history_message(timestamps=[1, -2, 3]), r"h\.timestamps\[1\]: -2; expected Unix seconds"),
        (history_message(types=[1, 2, 8]), r"h\.types\[2\]: 8; expected 0 to 7"),
        (history_message(types=[1, -1, 2]), r"h\.types\[1\]: -1; expected 0 to 7"),
        (history_message(types=[1, 1000, 2]), r"h\.types\[1\]: 1000"),
        (history_message(values=[1, math.inf, 2]), r"h\.values\[1\]: inf; expected a finite number"),
        (history_message(values=[-math.inf, 1, 2]), r"h\.values\[0\]: -inf"),
    ],
)
def test_a_bad_history_is_refused_by_field(message: types_pb2.History, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        convert.history_from_proto(message, as_of=NOW, field="h")


def test_only_public_histories_are_bounded() -> None:
    message = types_pb2.History(item_ids=range(2_001))
    assert len(convert.history_from_proto(message, as_of=NOW)) == 2_001
    with pytest.raises(InvalidRequest, match=r"history\.item_ids: 2001 events, at most 2000 are allowed"):
        convert.history_from_proto(message, as_of=NOW, limit=2_000)


@pytest.mark.parametrize(
    "history",
    [
        History.empty(),
        History.of([3, 1, 2], [5, 5, 9]),
        History.of([3, 1], [5, 6], types=[2, 7], values=[math.nan, 0.25]),
    ],
)
def test_a_history_survives_the_wire(history: History) -> None:
    wire = convert.history_to_proto(history).SerializeToString()
    assert_same_history(convert.history_from_proto(types_pb2.History.FromString(wire), as_of=NOW), history)


@pytest.mark.parametrize(
    "item_filter", [ItemFilter(), ItemFilter(("a", "b"), ("c",), 1990, 2000), ItemFilter(max_year=0)]
)
def test_a_filter_survives_the_wire(item_filter: ItemFilter) -> None:
    assert convert.item_filter_from_proto(convert.item_filter_to_proto(item_filter)) == item_filter


def test_a_filter_that_nothing_can_pass_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"filter\.min_year: 2001 is after max_year 2000"):
        convert.item_filter_from_proto(types_pb2.ItemFilter(min_year=2001, max_year=2000))


def test_too_many_names_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"filter\.genres_any: 201 names, at most 200"):
        convert.item_filter_from_proto(types_pb2.ItemFilter(genres_any=["x"] * 201))


def test_a_recall_query_survives_the_wire() -> None:
    query = RecallQuery(
        History.of([1, 2], [3, 4], values=[5.0, math.nan]),
        NOW,
        100,
        np.asarray([7, -8, 2**62], np.int64),
        ItemFilter(genres_any=("Drama",), min_year=0),
        ("Comedy",),
        0,
    )
    wire = convert.recall_query_to_proto(query).SerializeToString()
    found = convert.recall_query_from_proto(recall_pb2.RecallQuery.FromString(wire))
    assert_same_history(found.history, query.history)
    assert found.exclude_item_ids.tolist() == query.exclude_item_ids.tolist()
    assert (found.as_of, found.count, found.user_id) == (NOW, 100, 0)
    assert (found.item_filter, found.preferred_genres) == (query.item_filter, query.preferred_genres)


def test_an_anonymous_query_stays_anonymous() -> None:
    query = RecallQuery(History.empty(), NOW, 1)
    found = convert.recall_query_from_proto(convert.recall_query_to_proto(query))
    assert (found.user_id, found.item_filter, len(found.exclude_item_ids)) == (None, ItemFilter(), 0)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (recall_pb2.RecallQuery(count=0), r"queries\[4\]\.count: 0; expected 1 to 2000"),
        (recall_pb2.RecallQuery(count=2_001), r"queries\[4\]\.count: 2001"),
        (recall_pb2.RecallQuery(count=1, as_of=-1), r"queries\[4\]\.as_of: -1"),
        (
            recall_pb2.RecallQuery(count=1, history=history_message(types=[1])),
            r"queries\[4\]\.history\.types: 1 entries",
        ),
    ],
)
def test_a_bad_recall_query_is_refused_by_field(message: recall_pb2.RecallQuery, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        convert.recall_query_from_proto(message, "queries[4]")


def test_a_batch_is_bounded() -> None:
    assert len(convert.batch_from_proto([0] * 256)) == 256
    with pytest.raises(InvalidRequest, match="queries: 257, at most 256"):
        convert.batch_from_proto([0] * 257)


def test_a_recall_result_survives_the_wire_with_and_without_seeds() -> None:
    ids, scores = np.asarray([5, 3], np.int64), np.asarray([0.3, 0.1], np.float32)
    plain = convert.recall_result_from_proto(convert.recall_result_to_proto(RecallResult(ids, scores)))
    assert (plain.item_ids.tolist(), plain.seed_item_ids, plain.seed_present) == ([5, 3], None, None)
    assert_array_equal(plain.scores, scores)
    seeded = RecallResult(ids, scores, np.asarray([0, 9], np.int64), np.asarray([True, False]))
    found = convert.recall_result_from_proto(convert.recall_result_to_proto(seeded))
    assert found.seed_item_ids is not None
    assert found.seed_present is not None
    assert (found.seed_item_ids.tolist(), found.seed_present.tolist()) == ([0, 9], [True, False])


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (recall_pb2.RecallResult(item_ids=[1, 2], scores=[1]), "2 item_ids with 1 scores"),
        (recall_pb2.RecallResult(item_ids=[1], scores=[1], seed_item_ids=[2]), "1 seed_item_ids and 0 seed_present"),
    ],
)
def test_a_result_with_uneven_lists_breaks_the_contract(message: recall_pb2.RecallResult, complaint: str) -> None:
    with pytest.raises(ContractBroken, match=complaint):
        convert.recall_result_from_proto(message)


def candidates() -> Candidates:
    return Candidates(
        np.asarray([30, 10], np.int64),
        ("popularity", "itemcf"),
        np.asarray([[0.5, 0.0], [0.25, 3.0]], np.float32),
        np.asarray([[1, 0], [2, 1]], np.int32),
        np.asarray([[0, 0], [0, 7]], np.int64),
        np.asarray([[False, False], [False, True]]),
    )


def test_a_rank_query_survives_the_wire_but_for_seeds() -> None:
    query = RankQuery(History.of([1], [2]), NOW, candidates(), ("Drama",), 3)
    found = convert.rank_query_from_proto(convert.rank_query_to_proto(query))
    assert found.candidates.channels == query.candidates.channels
    for name in ("item_ids", "scores", "ranks"):
        assert_array_equal(getattr(found.candidates, name), getattr(query.candidates, name))
        assert getattr(found.candidates, name).dtype == getattr(query.candidates, name).dtype
    assert not found.candidates.seed_present.any()
    assert_same_history(found.history, query.history)
    assert (found.as_of, found.preferred_genres, found.user_id) == (NOW, ("Drama",), 3)


def test_a_rank_query_without_candidates_or_channels_is_fine() -> None:
    found = convert.rank_query_from_proto(rank_pb2.RankQuery(item_ids=[4, 2])).candidates
    assert (found.item_ids.tolist(), found.scores.shape, found.ranks.shape) == ([4, 2], (2, 0), (2, 0))
    assert len(convert.rank_query_from_proto(rank_pb2.RankQuery()).candidates) == 0


def evidence(channel: str = "a", scores: object = (1, 1), ranks: object = (1, 0)) -> rank_pb2.ChannelEvidence:
    return rank_pb2.ChannelEvidence(channel=channel, scores=scores, ranks=ranks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (rank_pb2.RankQuery(item_ids=[1, 1]), r"q\.item_ids: an item appears twice"),
        (rank_pb2.RankQuery(item_ids=range(2_001)), r"q\.item_ids: 2001, at most 2000"),
        (rank_pb2.RankQuery(item_ids=[1, 2], channels=[evidence(scores=[1])]), r"q\.channels\[0\]\.scores: 1 entries"),
        (rank_pb2.RankQuery(item_ids=[1, 2], channels=[evidence(ranks=[1])]), r"q\.channels\[0\]\.ranks: 1 entries"),
        (rank_pb2.RankQuery(item_ids=[1, 2], channels=[evidence(), evidence()]), r"q\.channels: a channel appears"),
        (
            rank_pb2.RankQuery(item_ids=[1, 2], channels=[evidence(scores=[math.nan, 1])]),
            r"q\.channels\[0\]\.scores\[0\]: nan; expected a finite number",
        ),
        (
            rank_pb2.RankQuery(item_ids=[1, 2], channels=[evidence(ranks=[1, 2**32 - 1])]),
            r"q\.channels\[0\]\.ranks\[1\]: 4294967295",
        ),
    ],
)
def test_a_bad_rank_query_is_refused_by_field(message: rank_pb2.RankQuery, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        convert.rank_query_from_proto(message, "q")


def test_the_score_of_an_item_that_was_not_returned_means_nothing() -> None:
    message = rank_pb2.RankQuery(item_ids=[1, 2], channels=[evidence(scores=[1, math.nan])])
    assert convert.rank_query_from_proto(message).candidates.ranks.tolist() == [[1], [0]]


def test_a_rank_result_survives_the_wire_with_features_where_asked() -> None:
    scores, features = np.asarray([0.1, -2.0], np.float32), np.asarray([[1, 2, 3], [4, 5, 6]], np.float32)
    plain = convert.rank_result_to_proto(scores)
    assert_array_equal(convert.rank_result_from_proto(plain), scores)
    assert (list(plain.features), list(plain.feature_names)) == ([], [])
    convert.rank_features_to_proto(features, ("a", "b", "c"), plain)
    names, found = convert.rank_features_from_proto(plain)
    assert names == ("a", "b", "c")
    assert_array_equal(found, features)


def test_a_feature_matrix_of_the_wrong_size_breaks_the_contract() -> None:
    with pytest.raises(ContractBroken, match="3 feature values for 2 items and 2 features"):
        convert.rank_features_from_proto(
            rank_pb2.RankResult(scores=[1, 2], features=[1, 2, 3], feature_names=["a", "b"])
        )
