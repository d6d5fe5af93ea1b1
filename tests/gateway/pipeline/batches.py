"""A batcher before channels and a ranker that wait at gates, which a test opens and closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gateway.pipeline.batching import Batcher, BatchLimits
from gateway.pipeline.fallback import Fallback
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.post_ranking import PostRankingStage
from gateway.pipeline.request import Request
from gateway.pipeline.stages import Budget, RankSource, RecallSource, SourceAnswer, Status
from gateway.pipeline.work import Answer
from recsys.domain import History, RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import DeadlinePassed, RecsysError
from tests.gateway.toy import POPULAR, catalogue, policy
from tests.waiting import soon

PATIENT = 60.0


@dataclass
class Gate:
    """Lets calls through when it is open, and remembers the sizes of the batches that came to it."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[int] = field(default_factory=list)
    stopped: int = 0

    async def pass_through(self, queries: Sequence[object]) -> None:
        self.batches.append(len(queries))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise


class Channel(RecallSource):
    """Answers with the item after the user's last one, behind a gate; `refuses` makes it refuse queries."""

    def __init__(
        self, name: str, gate: Gate, *, refuses: Callable[[RecallQuery], RecsysError | None] = lambda _: None
    ) -> None:
        self.name, self._gate, self._refuses = name, gate, refuses

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        try:
            async with asyncio.timeout(timeout):
                await self._gate.pass_through(queries)
        except TimeoutError:
            raise DeadlinePassed(f"{self.name}: late") from None
        for query in queries:
            if (error := self._refuses(query)) is not None:
                raise error
        return SourceAnswer([self._result(query) for query in queries])

    def _result(self, query: RecallQuery) -> RecallResult:
        last = int(query.history.item_ids[-1]) if len(query.history) else 0
        return RecallResult(np.asarray([last + 1], np.int64), np.ones(1, np.float32))


class ByIdRanker(RankSource):
    """The score is the id, behind a gate."""

    name = "rank"

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ASYNC109
        del timeout
        await self._gate.pass_through(queries)
        return SourceAnswer([query.candidates.item_ids.astype(np.float32) for query in queries])


@dataclass
class Served:
    """A batcher and the gates of what it calls, all open."""

    slow: Gate = field(default_factory=Gate)
    fast: Gate = field(default_factory=Gate)
    rank: Gate = field(default_factory=Gate)
    refuses: Callable[[RecallQuery], RecsysError | None] = lambda _: None
    extra: tuple[PostRankingStage, ...] = ()
    limits: BatchLimits = field(default_factory=lambda: limits(4, 1))
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for gate in (self.slow, self.fast, self.rank):
            gate.open.set()
        items = catalogue()
        channels = [
            Channel("itemcf", self.slow, refuses=self.refuses),
            Channel("vector", self.fast),
            Channel("popularity", self.fast),
        ]
        fallback = Fallback(items, np.asarray(POPULAR, np.int64))
        pipeline = Pipeline(items, policy(), channels, ByIdRanker(self.rank), fallback)
        pipeline.__dict__["post_ranking"] = (*pipeline.post_ranking, *self.extra)
        self.batcher = Batcher(pipeline, self.limits, observe=self.sizes.append)

    def ask(self, item: int, seconds: float = PATIENT) -> asyncio.Task[Answer]:
        """A request of a user who has seen `item`."""
        request = Request(History.of([item], [0]), 0, 1)
        return asyncio.create_task(self.batcher.answer(request, Budget.of(seconds)))


def limits(size: int, slots: int) -> BatchLimits:
    """No batch is stuck, however long this machine pauses."""
    return BatchLimits(size, slots, least_patience_seconds=PATIENT)


def status(answer: Answer, stage: str) -> Status:
    return next(report.status for report in answer.stages if report.name == stage)


async def asked(gate: Gate, batches: int) -> None:
    await soon(lambda: len(gate.batches) >= batches, f"{batches} batches are on their way")
