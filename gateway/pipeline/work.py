"""The requests of a batch in progress: each with its own time, its own answer and its own errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from gateway.pipeline.post_ranking import OrderedCandidates, PostRankingStage
from gateway.pipeline.request import Request, RequestContext
from gateway.pipeline.stages import Budget, Outcome, StageReport, Status
from recsys.domain import Candidates, Scores

Result = TypeVar("Result")
SourceCalls = Sequence[asyncio.Task[list[Outcome[Result]]]]


@dataclass(frozen=True)
class Answer:
    """Items, best first, with the evidence that reasons are built from, and a report per stage."""

    candidates: Candidates
    scores: Scores
    stages: tuple[StageReport, ...]

    @cached_property
    def degraded(self) -> bool:
        """Whether some stage did not do all of its work."""
        return any(stage.status is not Status.OK for stage in self.stages)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A request that waits for its answer. Compared by identity."""

    request: Request
    budget: Budget
    answer: asyncio.Future[Answer]
    """Set as soon as the answer is there; cancelled when the caller goes away."""


@dataclass(slots=True)
class Work:
    """A job in progress: what the stages so far have produced."""

    job: Job
    context: RequestContext
    candidates: Candidates
    scores: Scores
    stages: list[StageReport] = field(default_factory=list)
    deadline: float = 0.0
    """When the job continues without what has not been answered; on the clock of `time.perf_counter`."""
    asked_at: float = 0.0
    position: int = -1
    """Among the queries of the current calls; -1: it had no time left to be one of them."""
    recall_share: float = 1.0
    """The share of the policy's candidates that channels are asked for; less than 1 under load only."""
    rank_share: float = 1.0
    """The same of those that are ranked."""

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

    def time_used(self) -> tuple[float, float]:
        """Seconds since the current calls were sent, and the seconds that they had."""
        return time.perf_counter() - self.asked_at, self.deadline - self.asked_at

    def outcome(self, call: asyncio.Task[list[Outcome[Result]]]) -> Outcome[Result]:
        """What `call` brought for this job, so far."""
        return call.result()[self.position] if self.position >= 0 and call.done() else self.too_late()

    def too_late(self) -> Outcome[Result]:
        """The outcome of a call that has not been answered within this job's time."""
        if self.position < 0:
            return Outcome(Status.TIMEOUT, None, 0, "no time was left to call it")
        waited = time.perf_counter() - self.asked_at
        return Outcome(
            Status.TIMEOUT, None, int(waited * 1e6), f"no answer within the {waited * 1e3:.0f} ms that were left for it"
        )


def limit(batch: Sequence[Work], share: float) -> list[Work]:
    """Gives each job `share` of the time that it has left; returns those that have any, in order of their position."""
    asking: list[Work] = []
    now = time.perf_counter()
    for work in batch:
        left = work.job.budget.deadline - now
        work.deadline, work.asked_at, work.position = now + left * share, now, -1
        if left > 0 and not work.job.answer.done():
            work.position = len(asking)
            asking.append(work)
    return asking


async def in_time(
    batch: Sequence[Work],
    calls: SourceCalls[Result],
    group: asyncio.TaskGroup,
    go_on: Callable[[Sequence[Work]], Coroutine[Any, Any, None]],
) -> None:
    """Continues with the whole batch when all calls are done; a job whose deadline passes first does without them."""
    waiting = list(batch)
    while waiting:
        pending = {call for call in calls if not call.done()}
        if pending:
            first = min(work.deadline for work in waiting)
            _, pending = await asyncio.wait(pending, timeout=max(0.0, first - time.perf_counter()))
        now = time.perf_counter()
        ready = [work for work in waiting if not pending or work.deadline <= now]
        waiting = [work for work in waiting if pending and work.deadline > now]
        if ready and waiting:
            group.create_task(go_on(ready))
        elif ready:
            await go_on(ready)


def each(part: Sequence[Work], step: Callable[[Work], None]) -> list[Work]:
    """Does one step for every job whose caller still waits, and returns those for which it succeeded.

    An error is that job's own: the others of its batch do not see it.
    """
    done = []
    for work in part:
        if work.job.answer.done():
            continue
        try:
            step(work)
        except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
            work.job.answer.set_exception(error)
        else:
            done.append(work)
    return done
