"""A request from history to answer, on one page.

gRPC-free: the sources are arguments, so evaluation and the ranker's training samples run this very code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.filters import apply_filters
from gateway.pipeline.merge import FALLBACK, best_first, blended_scores, merge
from gateway.pipeline.post_ranking import HiddenItemsCut, OrderedCandidates, PostRankingStage, PreferredGenresFirst
from gateway.pipeline.request import Request, RequestContext
from gateway.pipeline.rerank import Reranker
from gateway.pipeline.stages import Budget, Outcome, RankSource, RecallSource, StageReport, Status
from recsys.bundle import ChannelPolicy, ServingPolicy
from recsys.catalogue import Catalogue
from recsys.domain import (
    NO_IDS,
    Candidates,
    Ids,
    RankQuery,
    RecallQuery,
    RecallResult,
    Scores,
)
from recsys.ordering import distinct

_NO_CANDIDATES = merge({})
_FALLBACK_POLICY = ChannelPolicy(name=FALLBACK, count=1, weight=0, history_limit=0)
_NOT_CONFIGURED: Outcome[RecallResult] = Outcome(
    Status.FAILED, None, 0, "no such channel is configured; add it to --recall"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Items, best first, with the evidence that reasons are built from, and a report per stage."""

    candidates: Candidates
    scores: Scores
    stages: tuple[StageReport, ...]

    @property
    def degraded(self) -> bool:
        """Whether some stage did not do all of its work."""
        return any(stage.status is not Status.OK for stage in self.stages)


@dataclass(slots=True)
class _Work:
    """A request in progress: what the stages so far have produced."""

    context: RequestContext
    candidates: Candidates
    scores: Scores
    stages: list[StageReport]

    def report(self, name: str, started: float, candidates_in: int) -> None:
        """Reports a stage of the gateway itself."""
        microseconds = int((time.perf_counter() - started) * 1e6)
        self.stages.append(StageReport(name, Status.OK, microseconds, candidates_in, len(self.candidates)))

    def apply(self, stage: PostRankingStage) -> None:
        """Runs one stage after ranking."""
        ordered, report = stage.run(OrderedCandidates(self.candidates, self.scores), self.context)
        self.candidates, self.scores = ordered.candidates, ordered.scores
        if report is not None:
            self.stages.append(report)


@dataclass(frozen=True)
class Pipeline:
    """The stages of one bundle version. `run` takes a batch; one request is a batch of one."""

    catalogue: Catalogue
    policy: ServingPolicy
    sources: Sequence[RecallSource]
    ranker: RankSource | None
    fallback: Fallback
    hidden: Callable[[], Ids] = lambda: NO_IDS
    """What must not be shown now; the same array while the list is the same. Called before recall and at the end."""
    recall_share: float = 0.5
    """The part of the remaining budget that recall may use."""
    rank_share: float = 0.9
    """The part of what recall leaves that ranking may use."""
    reranker: Reranker | None = None
    """Re-ranks the best of the ranked or blended list; None: nothing does."""

    @cached_property
    def post_ranking(self) -> tuple[PostRankingStage, ...]:
        """The stages after ranking, in order."""
        rerank = () if self.reranker is None else (self.reranker,)
        return (*rerank, PreferredGenresFirst(self.catalogue), HiddenItemsCut(self.hidden))

    async def run(self, requests: Sequence[Request], budget: Budget) -> list[Answer]:
        """Answers a batch, in order. What goes wrong in a source is never raised: its stage reports it."""
        hidden = self.hidden()
        batch = [self._begin(request, hidden) for request in requests]
        await self._recall(batch, budget)
        for work in batch:
            self._filter(work)
            self._blend(work)
        if self.ranker is not None and self.policy.ranking == "ranked":
            await self._rank(batch, self.ranker, budget)
        for stage in self.post_ranking:
            for work in batch:
                work.apply(stage)
        return [self._finish(work) for work in batch]

    def _begin(self, request: Request, hidden: Ids) -> _Work:
        forbidden = request.history.seen_item_ids()
        if len(request.exclude_item_ids) or len(hidden):
            forbidden = distinct(np.concatenate([forbidden, request.exclude_item_ids, hidden]))
        context = RequestContext(request, request.history.sequence(), hidden, forbidden)
        return _Work(context, _NO_CANDIDATES, np.empty(0, np.float32), [])

    async def _recall(self, batch: Sequence[_Work], budget: Budget) -> None:
        allowed = Budget.of(budget.share(self.recall_share))
        by_name = {source.name: source for source in self.sources}
        queried = [(policy, by_name[policy.name]) for policy in self.policy.channels if policy.name in by_name]
        queried.sort(key=lambda pair: -pair[1].latency_ewma)
        calls: dict[str, asyncio.Task[Outcome[RecallResult]]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for policy, source in queried:
                    if calls:
                        await asyncio.sleep(0)  # let the previous query be sent before this one is serialised
                    queries = [channel_query(work, policy) for work in batch]
                    calls[policy.name] = group.create_task(source.recall(queries, allowed.remaining()))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        outcomes = {
            policy.name: calls[policy.name].result() if policy.name in calls else _NOT_CONFIGURED
            for policy in self.policy.channels
        }
        for position, work in enumerate(batch):
            self._merge(work, outcomes, position)

    def _merge(self, work: _Work, outcomes: dict[str, Outcome[RecallResult]], position: int) -> None:
        results: dict[str, RecallResult] = {}
        for name, outcome in outcomes.items():
            if outcome.results is not None:
                results[name] = outcome.results[position]
            found = len(results[name]) if name in results else 0
            work.stages.append(outcome.report(f"recall:{name}", candidates_in=0, candidates_out=found))
        started = time.perf_counter()
        candidates_in = sum(len(result) for result in results.values())
        work.candidates = merge(results)
        if len(work.candidates) < work.context.request.count:
            results[FALLBACK] = self.fallback.recall(channel_query(work, _FALLBACK_POLICY))
            work.candidates = merge(results)
            candidates_in += len(results[FALLBACK])
        work.report("merge", started, candidates_in)

    def _filter(self, work: _Work) -> None:
        started, candidates_in = time.perf_counter(), len(work.candidates)
        work.candidates = apply_filters(
            work.candidates,
            self.catalogue,
            forbidden_ids=work.context.forbidden_ids,
            hidden_ids=work.context.hidden_ids,
            item_filter=work.context.request.item_filter,
        ).kept
        work.report("filter", started, candidates_in)

    def _blend(self, work: _Work) -> None:
        work.candidates, work.scores = best_first(work.candidates, blended_scores(work.candidates, self.policy))

    async def _rank(self, batch: Sequence[_Work], ranker: RankSource, budget: Budget) -> None:
        for work in batch:
            n = max(self.policy.rank_count, work.context.request.count)
            work.candidates, work.scores = work.candidates.take(slice(0, n)), work.scores[:n]
        outcome = await ranker.rank([rank_query(work, self.policy) for work in batch], budget.share(self.rank_share))
        for position, work in enumerate(batch):
            candidates_in = len(work.candidates)
            if outcome.results is not None:
                work.candidates, work.scores = best_first(work.candidates, outcome.results[position])
            scored = candidates_in if outcome.results is not None else 0
            work.stages.append(outcome.report("rank", candidates_in=candidates_in, candidates_out=scored))

    def _finish(self, work: _Work) -> Answer:
        n = work.context.request.count
        return Answer(work.candidates.take(slice(0, n)), work.scores[:n], tuple(work.stages))


def channel_query(work: _Work, policy: ChannelPolicy) -> RecallQuery:
    """The query to one channel: as much history as it needs, and at least as many candidates as are wanted."""
    request = work.context.request
    return RecallQuery(
        work.context.sequence.last(policy.history_limit),
        request.as_of,
        max(policy.count, request.count),
        work.context.forbidden_ids,
        request.item_filter,
        request.preferred_genres,
        request.user_id,
    )


def rank_query(work: _Work, policy: ServingPolicy) -> RankQuery:
    """The query to the ranker."""
    request = work.context.request
    history = work.context.sequence.last(policy.rank_history_limit)
    return RankQuery(history, request.as_of, work.candidates, request.preferred_genres, request.user_id)
