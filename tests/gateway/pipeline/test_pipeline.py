"""The pipeline alone: what its policy asks for and what its sources can do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.filters import apply_filters
from gateway.pipeline.merge import FALLBACK, merge
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from gateway.pipeline.stages import Budget, RankSource, RecallSource, SourceAnswer, Status
from gateway.pipeline.work import Answer
from recsys.bundle import ServingPolicy
from recsys.domain import EventType, History, Ids, ItemFilter, RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import DeadlinePassed, Unreachable
from recsys.v1 import recommend_pb2
from tests.gateway.toy import POPULAR, catalogue, policy
from tests.gateway.world import gateway


class Fixed(RecallSource):
    """Answers every query with the same items."""

    def __init__(self, name: str, item_ids: Sequence[int]) -> None:
        self.name = name
        self._result = RecallResult(
            np.asarray(item_ids, np.int64), np.linspace(1, 0.5, len(item_ids), dtype=np.float32)
        )

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        return SourceAnswer([self._result] * len(queries))


def pipeline(sources: Sequence[RecallSource]) -> Pipeline:
    items = catalogue()
    return Pipeline(items, policy(ranking="blended"), sources, None, Fallback(items, np.asarray(POPULAR, np.int64)))


async def test_every_channel_of_the_policy_is_a_stage_in_its_order() -> None:
    sources = [Fixed("vector", [7]), Fixed("itemcf", [6, 5]), Fixed("popularity", [3, 1])]
    (answer,) = await pipeline(sources).run([Request(History.empty(), 0, 5)], Budget.of(60.0))
    assert [stage.name for stage in answer.stages[:3]] == ["recall:popularity", "recall:itemcf", "recall:vector"]
    assert not answer.degraded
    assert sorted(answer.candidates.item_ids.tolist()) == [1, 3, 5, 6, 7]


@pytest.mark.parametrize("configured", ["popularity", "itemcf", ""])
async def test_a_channel_of_the_policy_that_is_not_configured_is_a_failed_stage(configured: str) -> None:
    sources = [Fixed(configured, [6, 5])] if configured else []
    requests = [Request(History.empty(), 0, 2), Request(History.of([11], [0]), 0, 2)]
    for answer in await pipeline(sources).run(requests, Budget.of(60.0)):
        failed = [stage for stage in answer.stages if stage.status is Status.FAILED]
        expected = [f"recall:{name}" for name in ("popularity", "itemcf", "vector") if name != configured]
        assert [stage.name for stage in failed] == expected
        assert {stage.cause for stage in failed} == {"no such channel is configured; add it to --recall"}
        assert answer.degraded
        assert len(answer.candidates) == 2


class Timed(Fixed):
    """Remembers how much time its calls were given."""

    def __init__(self, name: str) -> None:
        super().__init__(name, [6, 5])
        self.given = 0.0

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        self.given = timeout
        return await super().fetch(queries, timeout)


async def test_a_channel_has_a_share_of_its_own_where_one_is_named() -> None:
    sources = [Timed("popularity"), Timed("itemcf"), Timed("vector")]
    shared = replace(pipeline(sources), channel_shares={"itemcf": 0.1, "vector": 0.9})
    await shared.run([Request(History.empty(), 0, 2)], Budget.of(100.0))
    assert [round(source.given, 1) for source in sources] == [50.0, 10.0, 90.0]


async def test_similar_items_asks_its_channels_also_where_the_policy_names_none_of_them(tmp_path: Path) -> None:
    popularity_only = policy().model_copy(update={"channels": policy().channels[:1]})
    async with gateway(tmp_path, popularity_only) as world:
        response = await world.stub.SimilarItems(recommend_pb2.SimilarItemsRequest(item_id=1, count=3))
        assert [item.item_id for item in response.items] == [6, 7, 5]
        assert not response.degraded
        world.processes["itemcf"].failure = world.processes["vector"].failure = grpc.StatusCode.UNAVAILABLE
        response = await world.stub.SimilarItems(recommend_pb2.SimilarItemsRequest(item_id=1, count=3))
        assert response.degraded
        assert [item.item_id for item in response.items] == [3, 2, 4]


class Recording(Fixed):
    """Remembers what it was asked."""

    def __init__(self, name: str, item_ids: Sequence[int]) -> None:
        super().__init__(name, item_ids)
        self.queries: list[RecallQuery] = []

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        self.queries += queries
        return await super().fetch(queries, timeout)


class Sleeping(Fixed):
    """Takes its time, and notes when it is asked."""

    def __init__(self, name: str, seconds: float, asked: list[str]) -> None:
        super().__init__(name, [7])
        self.seconds, self.asked = seconds, asked

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        self.asked.append(self.name)
        await asyncio.sleep(self.seconds)
        return await super().fetch(queries, timeout)


async def test_the_channel_that_took_longest_is_queried_first() -> None:
    asked: list[str] = []
    seconds = {"popularity": 0.0, "itemcf": 0.05, "vector": 0.2}
    served = pipeline([Sleeping(name, wait, asked) for name, wait in seconds.items()])
    for _ in range(2):
        (answer,) = await served.run([Request(History.empty(), 0, 1)], Budget.of(60.0))
        assert [stage.name for stage in answer.stages[:3]] == ["recall:popularity", "recall:itemcf", "recall:vector"]
    assert asked == ["popularity", "itemcf", "vector", "vector", "itemcf", "popularity"]


class Sending(Fixed):
    """Notes when it is queried and when the query is sent: as with gRPC, after one more turn of the event loop."""

    def __init__(self, name: str, events: list[str]) -> None:
        super().__init__(name, [7])
        self.events = events

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        self.events.append(f"{self.name} asked")
        await asyncio.sleep(0)
        self.events.append(f"{self.name} sent")
        return await super().fetch(queries, timeout)


async def test_a_query_is_sent_before_the_next_one_is_serialised() -> None:
    events: list[str] = []
    names = ("popularity", "itemcf", "vector")
    await pipeline([Sending(name, events) for name in names]).run([Request(History.empty(), 0, 1)], Budget.of(60.0))
    assert events == [f"{name} {what}" for name in names for what in ("asked", "sent")]


class HungUpOn(Sleeping):
    """Its caller goes away as soon as it is asked."""

    caller: asyncio.Task[list[Answer]]

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        self.caller.cancel()
        return await super().fetch(queries, timeout)


@pytest.mark.parametrize("at", ["popularity", "itemcf", "vector"])
async def test_nothing_more_is_queried_once_the_caller_has_gone(at: str) -> None:
    asked: list[str] = []
    names = ["popularity", "itemcf", "vector"]
    sources = [(HungUpOn if name == at else Sleeping)(name, 600.0, asked) for name in names]
    others = asyncio.all_tasks()
    call = asyncio.create_task(pipeline(sources).run([Request(History.empty(), 0, 1)], Budget.of(60.0)))
    for source in sources:
        source.caller = call
    with pytest.raises(asyncio.CancelledError):
        await call
    assert asked == names[: names.index(at) + 1]
    assert asyncio.all_tasks() == others, "no query continues"


async def test_an_error_that_is_no_answer_of_a_source_comes_out_as_it_is() -> None:
    sources = [Fixed("popularity", [3]), Failing("itemcf", OSError("no space left")), Sleeping("vector", 600.0, [])]
    others = asyncio.all_tasks()
    with pytest.raises(OSError, match=r"^no space left$"):
        await pipeline(sources).run([Request(History.empty(), 0, 1)], Budget.of(60.0))
    assert asyncio.all_tasks() == others, "no query continues"


class Failing(RecallSource):
    """Fails with an error of its own."""

    def __init__(self, name: str, error: Exception) -> None:
        self.name, self.error = name, error

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        raise self.error


class ById(RankSource):
    """The score is the id; `broken` answers are not scores at all."""

    name = "rank"

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.queries: list[RankQuery] = []

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ASYNC109
        self.queries += queries
        sign = np.nan if self.broken else 1.0
        return SourceAnswer([(query.candidates.item_ids * sign).astype(np.float32) for query in queries])


def ranked(
    sources: Sequence[RecallSource], ranker: RankSource | None = None, hidden: Sequence[int] = (), **changes: object
) -> Pipeline:
    items = catalogue()
    fallback = Fallback(items, np.asarray(POPULAR, np.int64))
    chosen: ServingPolicy = policy(ranking="ranked").model_copy(update=changes)
    return Pipeline(items, chosen, sources, ranker or ById(), fallback, lambda: np.asarray(hidden, np.int64))


def sources() -> list[RecallSource]:
    return [Fixed("popularity", [3, 1, 2]), Fixed("itemcf", [6, 5, 3]), Fixed("vector", [7, 6])]


async def one(pipeline: Pipeline, request: Request) -> Answer:
    (answer,) = await pipeline.run([request], Budget.of(60.0))
    return answer


def ids(answer: Answer) -> list[int]:
    return answer.candidates.item_ids.tolist()


def candidate_flow(answer: Answer) -> list[tuple[str, int, int]]:
    return [(stage.name, stage.candidates_in, stage.candidates_out) for stage in answer.stages]


async def test_every_candidate_is_accounted_for_from_recall_to_answer() -> None:
    answer = await one(ranked(sources()), Request(History.of([3, 6], [0, 0]), 0, 2))
    assert candidate_flow(answer) == [
        ("recall:popularity", 0, 3),
        ("recall:itemcf", 0, 3),
        ("recall:vector", 0, 2),
        ("merge", 8, 6),
        ("filter", 6, 4),
        ("rank", 4, 4),
    ]
    assert ids(answer) == [7, 5]
    assert answer.scores.tolist() == [7, 5]
    assert not answer.degraded


def test_merging_keeps_what_each_channel_said() -> None:
    results = {"a": result_of([5, 3]), "b": result_of([3, 9])}
    merged = merge(results)
    assert merged.item_ids.tolist() == [3, 5, 9]
    assert merged.channels == ("a", "b")
    assert merged.ranks.tolist() == [[2, 1], [1, 0], [0, 2]]
    assert merged.scores[merged.ranks > 0].tolist() == [0.5, 1.0, 1.0, 0.5]


def test_merging_keeps_the_seed_that_each_channel_named() -> None:
    """`plain` knows no seeds, and `b` named none for item 3."""
    seeded = {"a": with_seeds([5, 3], [1, 2]), "plain": result_of([5]), "b": with_seeds([3, 5, 9], [None, 4, 6])}
    merged = merge(seeded)
    assert merged.item_ids.tolist() == [3, 5, 9]
    assert merged.seed_present.tolist() == [[True, False, False], [True, False, True], [False, False, True]]
    assert merged.seed_item_ids[merged.seed_present].tolist() == [2, 1, 4, 6]


def with_seeds(item_ids: Sequence[int], seeds: Sequence[int | None]) -> RecallResult:
    return replace(
        result_of(item_ids),
        seed_item_ids=np.asarray([seed or 0 for seed in seeds], np.int64),
        seed_present=np.asarray([seed is not None for seed in seeds]),
    )


def result_of(item_ids: Sequence[int]) -> RecallResult:
    return RecallResult(np.asarray(item_ids, np.int64), np.linspace(1, 0.5, len(item_ids), dtype=np.float32))


def test_a_filter_keeps_or_names_every_item() -> None:
    """Item 99 is unknown; 4 is hidden and seen: the first reason counts; westerns are not wanted."""
    candidates = merge({"a": result_of([99, 1, 2, 3, 4, 5])})
    filtered = apply_filters(
        candidates,
        catalogue(),
        forbidden_ids=np.asarray([3, 4], np.int64),
        hidden_ids=np.asarray([4], np.int64),
        item_filter=ItemFilter(genres_none=("Western",)),
    )
    removed: dict[str, list[int]] = {reason: gone.tolist() for reason, gone in filtered.removed.items()}
    assert filtered.kept.item_ids.tolist() == [1, 5]
    assert removed == {"unknown": [99], "hidden": [4], "seen_or_excluded": [3], "attributes": [2]}
    gone: list[Ids] = list(filtered.removed.values())
    assert sorted([*filtered.kept.item_ids, *np.concatenate(gone)]) == candidates.item_ids.tolist()


async def test_the_blended_order_is_reciprocal_rank_fusion() -> None:
    """3 is first of popularity (weight .5) and third of itemcf; 6 first of itemcf and second of vector."""
    answer = await one(ranked(sources(), ranking="blended"), Request(History.empty(), 0, 3))
    assert ids(answer) == [6, 3, 7]
    assert answer.scores.tolist() == pytest.approx([1 / 61 + 1 / 62, 0.5 / 61 + 1 / 63, 1 / 61])


async def test_channels_get_time_history_and_what_not_to_return() -> None:
    channels = [Recording("popularity", [3]), Recording("itemcf", [6]), Recording("vector", [7])]
    kinds = [EventType.RATING, EventType.DISLIKE, EventType.IMPRESSION, EventType.SAVE]
    history = History.of([1, 2, 4, 5], [10, 11, 12, 13], types=kinds)
    request = Request(history, 77, 3, np.asarray([8], np.int64), ItemFilter(min_year=1990), ("Drama",), 4)
    answer = await one(ranked(channels, hidden=[9]), request)
    seen = {channel.name: channel.queries[0] for channel in channels}
    assert {query.as_of for query in seen.values()} == {77}
    assert {name: query.history.item_ids.tolist() for name, query in seen.items()} == {
        "popularity": [],
        "itemcf": [1, 5],
        "vector": [5],
    }
    for query in seen.values():
        assert query.exclude_item_ids.tolist() == [1, 2, 8, 9]
        assert (query.count, query.item_filter, query.preferred_genres) == (8, request.item_filter, ("Drama",))
    assert not answer.degraded


async def test_channels_get_what_is_excluded_besides_the_history_that_they_get() -> None:
    """A query's history, as much of it as the channel gets, and the rest exclude together what the request excludes."""
    rng, channels = np.random.default_rng(10), [Recording(name, [11]) for name in ("popularity", "itemcf", "vector")]
    requests = []
    for n in rng.integers(0, 10, 200):
        types = rng.integers(1, len(EventType) + 1, n)
        history = History.of(rng.integers(1, 9, n), np.sort(rng.integers(0, 50, n)), types=types)
        requests.append(Request(history, 60, 1, rng.integers(1, 9, rng.integers(0, 3))))
    await ranked(channels, hidden=[9]).run(requests, Budget.of(60.0))
    for channel in channels:
        assert len(channel.queries) == len(requests)
        for query in channel.queries:
            assert query.exclude_besides_history is not None
            parts = {*query.history.not_again_item_ids().tolist(), *query.exclude_besides_history.tolist()}
            assert parts == set(query.exclude_item_ids.tolist())


async def test_a_history_that_is_sent_whole_leaves_nothing_to_exclude_besides() -> None:
    itemcf = Recording("itemcf", [6])
    await one(ranked([itemcf]), Request(History.of([1, 2, 1], [1, 2, 3]), 5, 1))
    (query,) = itemcf.queries
    assert query.exclude_item_ids.tolist() == [1, 2]
    assert query.exclude_besides_history is not None
    assert len(query.exclude_besides_history) == 0


async def test_the_ranker_gets_the_time_and_the_best_blended_candidates() -> None:
    ranker = ById()
    answer = await one(ranked(sources(), ranker, rank_count=3), Request(History.of([1], [5]), 9, 2))
    (query,) = ranker.queries
    assert (query.as_of, query.history.item_ids.tolist()) == (9, [1])
    assert query.candidates.item_ids.tolist() == [6, 3, 7]
    assert ids(answer) == [7, 6]


async def test_a_batch_is_answered_like_its_requests_one_by_one() -> None:
    requests = [
        Request(History.empty(), 0, 4),
        Request(History.of([7, 6], [0, 1]), 5, 2),
        Request(History.empty(), 9, 1, item_filter=ItemFilter(genres_any=("Western",))),
    ]
    together = await ranked(sources()).run(requests, Budget.of(60.0))
    for request, answer in zip(requests, together, strict=True):
        alone = await one(ranked(sources()), request)
        assert ids(answer) == ids(alone)
        assert answer.scores.tobytes() == alone.scores.tobytes()


@pytest.mark.parametrize(
    ("error", "status"), [(DeadlinePassed("late"), Status.TIMEOUT), (Unreachable("down"), Status.FAILED)]
)
async def test_a_channel_that_is_late_or_down_costs_only_itself(error: Exception, status: Status) -> None:
    broken = [Failing("popularity", error), *sources()[1:]]
    answer = await one(ranked(broken), Request(History.empty(), 0, 3))
    assert (answer.stages[0].name, answer.stages[0].status, answer.stages[0].cause) == (
        "recall:popularity",
        status,
        str(error),
    )
    assert answer.degraded
    assert ids(answer) == [7, 6, 5]


async def test_a_channel_that_breaks_its_contract_is_thrown_away() -> None:
    twice = Fixed("itemcf", [6, 6])
    answer = await one(ranked([sources()[0], twice, sources()[2]]), Request(History.empty(), 0, 3))
    assert answer.stages[1].status is Status.REFUSED
    assert "came back twice" in answer.stages[1].cause
    assert ids(answer) == [7, 6, 3]


async def test_without_a_ranker_that_answers_the_blended_order_is_served() -> None:
    answer = await one(ranked(sources(), ById(broken=True)), Request(History.empty(), 0, 3))
    assert answer.degraded
    assert answer.stages[-1].status is Status.REFUSED
    assert ids(answer) == [6, 3, 7]


async def test_without_any_channel_the_popular_items_are_served_best_first() -> None:
    down = [Failing(name, Unreachable("down")) for name in ("popularity", "itemcf", "vector")]
    request = Request(History.of([3], [0]), 0, 4, np.asarray([2], np.int64))
    answer = await one(ranked(down, ById(broken=True), hidden=[5]), request)
    assert ids(answer) == [1, 4, 6, 7]
    assert answer.candidates.channels == (FALLBACK,)
    assert answer.degraded


class Hiding(ById):
    """While it scores, somebody hides `late`."""

    def __init__(self, late: Sequence[int], *, broken: bool = False) -> None:
        super().__init__(broken=broken)
        self.late = np.asarray(late, np.int64)
        self.hidden: Ids = np.asarray([3], np.int64)

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ASYNC109
        answer = await super().score(queries, timeout)
        self.hidden = self.late
        return answer


@pytest.mark.parametrize(("broken", "expected"), [(False, [8, 6, 5]), (True, [5, 6, 8])], ids=["ranked", "blended"])
async def test_an_item_hidden_while_ranking_runs_is_not_shown_and_the_next_takes_its_place(
    broken: bool, expected: list[int]
) -> None:
    """Blended, 5, 6, 7 and 8 are in this order, ranked in the other; 3 is hidden from the start, 7 later."""
    ranker = Hiding([3, 7], broken=broken)
    channels = [Fixed("popularity", [5]), Fixed("itemcf", [5, 6, 7, 8, 3]), Fixed("vector", [5])]
    serving = replace(ranked(channels, ranker), hidden=lambda: ranker.hidden)
    answer = await one(serving, Request(History.empty(), 0, 3))
    assert ids(answer) == expected
    assert len(answer.scores) == 3
    assert candidate_flow(answer)[-1] == ("filter", 4, 3)
    ranker.hidden = ranker.late
    assert candidate_flow(await one(serving, Request(History.empty(), 0, 3)))[-1][0] == "rank"


async def test_hidden_and_seen_items_are_cut_whatever_the_channels_return() -> None:
    answer = await one(ranked(sources(), hidden=[7]), Request(History.of([6], [0]), 0, 10))
    assert not {6, 7} & set(ids(answer))
    assert len(answer.candidates) == 10
