"""A request from history to answer, on one page.

gRPC-free: the sources are arguments, so evaluation and the ranker's training samples run this very code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.filters import apply_filters
from gateway.pipeline.merge import FALLBACK, best_first, blended_scores, merge
from gateway.pipeline.rerank import Reranker, place_scores
from gateway.pipeline.stages import Budget, Outcome, RankSource, RecallSource, StageReport, Status
from recsys.bundle import ChannelPolicy, ServingPolicy
from recsys.catalogue import Catalogue
from recsys.domain import (
    NO_FILTER,
    NO_IDS,
    Candidates,
    History,
    Ids,
    ItemFilter,
    RankQuery,
    RecallQuery,
    RecallResult,
    Scores,
)
from recsys.ordering import are_among, distinct

_NO_CANDIDATES = merge({})
_FALLBACK_POLICY = ChannelPolicy(name=FALLBACK, count=1, weight=0, history_limit=0)
_NOT_CONFIGURED: Outcome[RecallResult] = Outcome(
    Status.FAILED, None, 0, "no such channel is configured; add it to --recall"
)


@dataclass(frozen=True, slots=True)
class Request:
    """One user's request. The history is resolved: stored, recorded or sent, all event types, nothing after `as_of`."""

    history: History
    as_of: int
    count: int
    exclude_item_ids: Ids = field(default_factory=lambda: NO_IDS)
    item_filter: ItemFilter = NO_FILTER
    preferred_genres: tuple[str, ...] = ()
    user_id: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Items best first, with the evidence that reasons are made of, and a report per stage."""

    candidates: Candidates
    scores: Scores
    stages: tuple[StageReport, ...]

    @property
    def degraded(self) -> bool:
        """Whether some stage did less than all of its work."""
        return any(stage.status is not Status.OK for stage in self.stages)


@dataclass(slots=True)
class _Work:
    """A request on its way: what each stage has left so far."""

    request: Request
    sequence: History
    forbidden_ids: Ids
    candidates: Candidates
    scores: Scores
    stages: list[StageReport]

    def note(self, name: str, started: float, candidates_in: int) -> None:
        """Records a stage of the gateway's own."""
        microseconds = int((time.perf_counter() - started) * 1e6)
        self.stages.append(StageReport(name, Status.OK, microseconds, candidates_in, len(self.candidates)))

    def reorder(self, order: NDArray[np.int64]) -> None:
        """Leaves the candidates at `order`, in an order that is not that of their scores: these say the place now."""
        self.candidates, self.scores = self.candidates.take(order), place_scores(len(order))


@dataclass(frozen=True)
class Pipeline:
    """The stages of one bundle version. `run` takes a batch; one request is a batch of one."""

    catalogue: Catalogue
    policy: ServingPolicy
    sources: Sequence[RecallSource]
    ranker: RankSource | None
    fallback: Fallback
    hidden: Callable[[], Ids] = lambda: NO_IDS
    """What must not be shown now; the same array while the list is the same. Asked before recall and at the end."""
    recall_share: float = 0.5
    """The part of the remaining budget that recall may use."""
    rank_share: float = 0.9
    """The part of what recall leaves that ranking may use."""
    reranker: Reranker | None = None
    """What orders the best of the served order anew; absent: nothing does."""

    async def run(self, requests: Sequence[Request], budget: Budget) -> list[Answer]:
        """Answers a batch in order. Never raises a RecsysError because of a source: it is in the stages."""
        hidden = self.hidden()
        batch = [self._begin(request, hidden) for request in requests]
        await self._recall(batch, budget)
        for work in batch:
            self._filter(work, hidden)
            self._blend(work)
        if self.ranker is not None and self.policy.ranking == "ranked":
            await self._rank(batch, self.ranker, budget)
        if self.reranker is not None:
            for work in batch:
                self._rerank(work, self.reranker)
        for work in batch:
            if work.request.preferred_genres and not len(work.sequence):
                self._prefer(work)
        if (hidden_since := self.hidden()) is not hidden:
            for work in batch:
                self._hide(work, hidden_since)
        return [self._finish(work) for work in batch]

    def _begin(self, request: Request, hidden: Ids) -> _Work:
        forbidden = request.history.seen_item_ids()
        if len(request.exclude_item_ids) or len(hidden):
            forbidden = distinct(np.concatenate([forbidden, request.exclude_item_ids, hidden]))
        return _Work(request, request.history.sequence(), forbidden, _NO_CANDIDATES, np.empty(0, np.float32), [])

    async def _recall(self, batch: Sequence[_Work], budget: Budget) -> None:
        allowed = Budget.of(budget.share(self.recall_share))
        by_name = {source.name: source for source in self.sources}
        asked = [(policy, by_name[policy.name]) for policy in self.policy.channels if policy.name in by_name]
        asked.sort(key=lambda pair: -pair[1].usual_seconds)
        calls: dict[str, asyncio.Task[Outcome[RecallResult]]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for policy, source in asked:
                    if calls:
                        await asyncio.sleep(0)  # the question before leaves before this one is written
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
        if len(work.candidates) < work.request.count:
            results[FALLBACK] = self.fallback.recall(channel_query(work, _FALLBACK_POLICY))
            work.candidates = merge(results)
            candidates_in += len(results[FALLBACK])
        work.note("merge", started, candidates_in)

    def _filter(self, work: _Work, hidden: Ids) -> None:
        started, candidates_in = time.perf_counter(), len(work.candidates)
        work.candidates = apply_filters(
            work.candidates,
            self.catalogue,
            forbidden_ids=work.forbidden_ids,
            hidden_ids=hidden,
            item_filter=work.request.item_filter,
        ).kept
        work.note("filter", started, candidates_in)

    def _blend(self, work: _Work) -> None:
        work.candidates, work.scores = best_first(work.candidates, blended_scores(work.candidates, self.policy))

    async def _rank(self, batch: Sequence[_Work], ranker: RankSource, budget: Budget) -> None:
        for work in batch:
            n = max(self.policy.rank_count, work.request.count)
            work.candidates, work.scores = work.candidates.take(slice(0, n)), work.scores[:n]
        outcome = await ranker.rank([rank_query(work, self.policy) for work in batch], budget.share(self.rank_share))
        for position, work in enumerate(batch):
            candidates_in = len(work.candidates)
            if outcome.results is not None:
                work.candidates, work.scores = best_first(work.candidates, outcome.results[position])
            scored = candidates_in if outcome.results is not None else 0
            work.stages.append(outcome.report("rank", candidates_in=candidates_in, candidates_out=scored))

    def _rerank(self, work: _Work, reranker: Reranker) -> None:
        started, candidates_in = time.perf_counter(), len(work.candidates)
        work.reorder(reranker.order(work.candidates.item_ids, work.sequence, work.request.count))
        work.note("rerank", started, candidates_in)

    def _prefer(self, work: _Work) -> None:
        """Puts the genres that a newcomer names first, as far as there are candidates of them.

        Nothing has learnt what a named genre is worth: channels and rankers learn from histories.
        """
        started, candidates_in = time.perf_counter(), len(work.candidates)
        columns = self.catalogue.check_genres(work.request.preferred_genres, "preferred_genres")
        named = self.catalogue.genres[self.catalogue.rows(work.candidates.item_ids)][:, columns].any(axis=1)
        work.reorder(np.argsort(~named, kind="stable"))
        work.note("rerank", started, candidates_in)

    def _hide(self, work: _Work, hidden: Ids) -> None:
        """Cuts what was hidden while the request ran; candidates behind take its place, as far as there are any."""
        started, candidates_in = time.perf_counter(), len(work.candidates)
        shown = ~are_among(work.candidates.item_ids, hidden)
        if not shown.all():
            work.candidates, work.scores = work.candidates.take(shown), work.scores[shown]
            work.note("filter", started, candidates_in)

    def _finish(self, work: _Work) -> Answer:
        n = work.request.count
        return Answer(work.candidates.take(slice(0, n)), work.scores[:n], tuple(work.stages))


def channel_query(work: _Work, policy: ChannelPolicy) -> RecallQuery:
    """What one channel is asked: as much history as it needs, and at least as many candidates as are wanted."""
    request = work.request
    return RecallQuery(
        work.sequence.last(policy.history_limit),
        request.as_of,
        max(policy.count, request.count),
        work.forbidden_ids,
        request.item_filter,
        request.preferred_genres,
        request.user_id,
    )


def rank_query(work: _Work, policy: ServingPolicy) -> RankQuery:
    """What the ranker is asked."""
    request = work.request
    history = work.sequence.last(policy.rank_history_limit)
    return RankQuery(history, request.as_of, work.candidates, request.preferred_genres, request.user_id)
