"""A request from history to answer, on one page.

gRPC-free: the sources are arguments, so evaluation and the ranker's training samples run this very code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.filters import apply_filters
from gateway.pipeline.merge import FALLBACK, best_first, blended_scores, merge
from gateway.pipeline.post_ranking import HiddenItemsCut, PostRankingStage, PreferredGenresFirst
from gateway.pipeline.quality import Quality, StageQuality, reduced
from gateway.pipeline.request import Request, RequestContext
from gateway.pipeline.rerank import Reranker
from gateway.pipeline.stages import Budget, Outcome, RankSource, RecallSource, Status
from gateway.pipeline.work import Answer, Job, Work, each, in_time, limit
from recsys.bundle import ChannelPolicy, ServingPolicy
from recsys.catalogue import Catalogue
from recsys.domain import (
    NO_IDS,
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

RecallCalls = dict[str, asyncio.Task[list[Outcome[RecallResult]]]]
"""The calls to the channels by name; each has one outcome per job that was asked for."""


@dataclass(frozen=True)
class Pipeline:
    """The stages of one bundle version. They take a batch; one request is a batch of one."""

    catalogue: Catalogue
    policy: ServingPolicy
    sources: Sequence[RecallSource]
    ranker: RankSource | None
    fallback: Fallback
    hidden: Callable[[], Ids] = lambda: NO_IDS
    """What must not be shown now; the same array while the list is the same. Called before recall and at the end."""
    recall_share: float = 0.5
    """The part of the remaining budget that a recall channel may use."""
    channel_shares: Mapping[str, float] = field(default_factory=dict)
    """The same for single channels, by name."""
    rank_share: float = 0.8
    """The part of what recall leaves that ranking may use."""
    reranker: Reranker | None = None
    """Re-ranks the best of the ranked or blended list; None: nothing does."""
    quality: Quality | None = None
    """Reduces the candidates of live requests under load; None: every request gets what the policy says."""

    @cached_property
    def post_ranking(self) -> tuple[PostRankingStage, ...]:
        """The stages after ranking, in order."""
        rerank = () if self.reranker is None else (self.reranker,)
        return (*rerank, PreferredGenresFirst(self.catalogue), HiddenItemsCut(self.hidden))

    @cached_property
    def _sources(self) -> dict[str, RecallSource]:
        return {source.name: source for source in self.sources}

    async def run(self, requests: Sequence[Request], budget: Budget) -> list[Answer]:
        """Answers requests that share one budget, in order. See `answer`."""
        loop = asyncio.get_running_loop()
        jobs = [Job(request, budget, loop.create_future()) for request in requests]
        await self.answer(jobs)
        return [job.answer.result() for job in jobs]

    async def answer(self, jobs: Sequence[Job]) -> None:
        """Answers a batch with one call per source, and each job as soon as its own work is done.

        The batch continues together when all sources have answered. A job whose time is up earlier continues without
        the others, with what is there, and is degraded; a job whose caller has gone is dropped. What goes wrong in a
        source is never raised: its stage reports it. What goes wrong with one job is set as that job's exception.
        """
        hidden = self.hidden()
        batch = [self._begin(job, hidden) for job in jobs]
        try:
            async with asyncio.TaskGroup() as group:
                calls = await self._query_channels(batch, group)
                await in_time(batch, list(calls.values()), group, lambda part: self._after_recall(part, calls, group))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _begin(self, job: Job, hidden: Ids) -> Work:
        request = job.request
        forbidden, besides = request.history.seen_item_ids(), request.history.lost_in_sequence()
        if len(request.exclude_item_ids) or len(hidden):
            forbidden = distinct(np.concatenate([forbidden, request.exclude_item_ids, hidden]))
            besides = np.concatenate([besides, request.exclude_item_ids, hidden])
        context = RequestContext(request, request.history.sequence(), hidden, forbidden, besides)
        work = Work(job, context, _NO_CANDIDATES, np.empty(0, np.float32))
        if self.quality is not None and request.live:
            work.recall_share, work.rank_share = self.quality.recall.share, self.quality.rank.share
        return work

    async def _query_channels(self, batch: Sequence[Work], group: asyncio.TaskGroup) -> RecallCalls:
        """Sends each channel the queries of all jobs that have time left; the slowest channel is queried first."""
        sources = self._sources
        queried = [(policy, sources[policy.name]) for policy in self.policy.channels if policy.name in sources]
        queried.sort(key=lambda pair: -pair[1].latency_ewma)
        share = max((self._share(policy) for policy, _ in queried), default=0.0)
        asking = limit(batch, share)
        begun, longest = time.perf_counter(), max((work.job.budget.remaining() for work in asking), default=0.0)
        calls: RecallCalls = {}
        for policy, source in queried if asking else ():
            if calls:
                await asyncio.sleep(0)  # let the previous query be sent before this one is serialised
            queries = [channel_query(work, policy) for work in asking]
            left = self._share(policy) * longest - (time.perf_counter() - begun)
            calls[policy.name] = group.create_task(source.recall(queries, left))
        return calls

    def _share(self, policy: ChannelPolicy) -> float:
        return self.channel_shares.get(policy.name, self.recall_share)

    async def _after_recall(self, part: Sequence[Work], calls: RecallCalls, group: asyncio.TaskGroup) -> None:
        """Merges, filters, ranks and finishes jobs for which recall is over."""
        if self.quality is not None:
            observe_ended(self.quality.recall, part, list(calls.values()))
        part = each(part, lambda work: self._order(work, calls))
        if self.ranker is not None and self.policy.ranking == "ranked":
            await self._rank(part, self.ranker, group)
        else:
            self._finish(part)

    def _order(self, work: Work, calls: RecallCalls) -> None:
        """From the answers of the channels to one list in blended order."""
        self._merge(work, {policy.name: self._outcome(work, policy, calls) for policy in self.policy.channels})
        self._filter(work)
        self._blend(work)

    def _outcome(self, work: Work, policy: ChannelPolicy, calls: RecallCalls) -> Outcome[RecallResult]:
        if policy.name in calls:
            return work.outcome(calls[policy.name])
        return work.too_late() if policy.name in self._sources else _NOT_CONFIGURED

    def _merge(self, work: Work, outcomes: dict[str, Outcome[RecallResult]]) -> None:
        results: dict[str, RecallResult] = {}
        for name, outcome in outcomes.items():
            found = 0
            if outcome.result is not None:
                results[name], found = outcome.result, len(outcome.result)
            report = outcome.report(f"recall:{name}", candidates_in=0, candidates_out=found)
            work.stages.append(report.reduced_to(work.recall_share))
        started = time.perf_counter()
        candidates_in = sum(len(result) for result in results.values())
        work.candidates = merge(results)
        if len(work.candidates) < work.context.request.count:
            results[FALLBACK] = self.fallback.recall(channel_query(work, _FALLBACK_POLICY))
            work.candidates = merge(results)
            candidates_in += len(results[FALLBACK])
        work.report("merge", started, candidates_in)

    def _filter(self, work: Work) -> None:
        started, candidates_in = time.perf_counter(), len(work.candidates)
        work.candidates = apply_filters(
            work.candidates,
            self.catalogue,
            forbidden_ids=work.context.forbidden_ids,
            hidden_ids=work.context.hidden_ids,
            item_filter=work.context.request.item_filter,
        ).kept
        work.report("filter", started, candidates_in)

    def _blend(self, work: Work) -> None:
        work.candidates, work.scores = best_first(work.candidates, blended_scores(work.candidates, self.policy))

    async def _rank(self, part: Sequence[Work], ranker: RankSource, group: asyncio.TaskGroup) -> None:
        for work in part:
            n = reduced(self.policy.rank_count, work.rank_share, least=work.context.request.count)
            work.candidates, work.scores = work.candidates.take(slice(0, n)), work.scores[:n]
        asking = limit(part, self.rank_share)
        calls = []
        if asking:
            queries = [rank_query(work, self.policy) for work in asking]
            left = max(work.deadline for work in asking) - time.perf_counter()
            calls.append(group.create_task(ranker.rank(queries, left)))

        async def finish(ready: Sequence[Work]) -> None:
            if self.quality is not None:
                observe_ended(self.quality.rank, ready, calls)
            self._finish(each(ready, lambda work: _take_scores(work, calls)))

        await in_time(part, calls, group, finish)

    def _finish(self, part: Sequence[Work]) -> None:
        """Runs the stages after ranking, and answers."""
        each(part, self._answer)

    def _answer(self, work: Work) -> None:
        for stage in self.post_ranking:
            work.apply(stage)
        n = work.context.request.count
        work.job.answer.set_result(Answer(work.candidates.take(slice(0, n)), work.scores[:n], tuple(work.stages)))


def observe_ended(quality: StageQuality, part: Sequence[Work], calls: Sequence[asyncio.Task[object]]) -> None:
    """Takes note of calls that have ended, against the time that the most patient request gave them.

    Who continues earlier says how much time there was, not how much was needed.
    """
    asked = [work for work in part if work.position >= 0]
    if asked and all(call.done() for call in calls):
        quality.observe(*max((work.time_used() for work in asked), key=lambda used: used[1]), len(asked))


def _take_scores(work: Work, calls: Sequence[asyncio.Task[list[Outcome[Scores]]]]) -> None:
    """The ranker's order; the blended one stays if the ranker has not answered in time."""
    outcome = work.outcome(calls[0]) if calls else work.too_late()
    candidates_in, scored = len(work.candidates), 0
    if outcome.result is not None:
        work.candidates, work.scores = best_first(work.candidates, outcome.result)
        scored = candidates_in
    report = outcome.report("rank", candidates_in=candidates_in, candidates_out=scored)
    work.stages.append(report.reduced_to(work.rank_share))


def channel_query(work: Work, policy: ChannelPolicy) -> RecallQuery:
    """The query to one channel: as much history as it needs, and at least as many candidates as are wanted."""
    request, sequence = work.context.request, work.context.sequence
    history, besides = sequence.last(policy.history_limit), work.context.forbidden_besides_sequence
    if len(history) < len(sequence):
        older = sequence.take(slice(0, len(sequence) - len(history)))
        besides = np.concatenate([older.not_again_item_ids(), besides])
    return RecallQuery(
        history,
        request.as_of,
        reduced(policy.count, work.recall_share, least=request.count),
        work.context.forbidden_ids,
        request.item_filter,
        request.preferred_genres,
        request.user_id,
        request.request_id,
        besides,
    )


def rank_query(work: Work, policy: ServingPolicy) -> RankQuery:
    """The query to the ranker."""
    request = work.context.request
    history = work.context.sequence.last(policy.rank_history_limit)
    return RankQuery(
        history, request.as_of, work.candidates, request.preferred_genres, request.user_id, request.request_id
    )
