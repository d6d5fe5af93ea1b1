"""The contracts of the pipeline's sources, and the report that every stage writes.

Whoever adds a source writes `fetch` (or `score`) and nothing about time, errors or checks: the final `recall` and
`rank` turn whatever happens into an `Outcome`, so a source that is late, down or wrong costs only itself.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Generic, TypeVar, final

from recsys import ewma
from recsys.contracts import check_recall_result, check_scores
from recsys.domain import RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import (
    BundleError,
    BundleMismatch,
    ContractBroken,
    DeadlinePassed,
    InvalidRequest,
    RecsysError,
    Unreachable,
)

Query = TypeVar("Query")
Result = TypeVar("Result")


class Status(IntEnum):
    """How a stage went; the numbers are those of `recsys.v1.StageStatus`."""

    OK = 1
    TIMEOUT = 2
    FAILED = 3
    SKIPPED = 4
    REFUSED = 5
    REDUCED = 6


class Skipped(Unreachable):
    """The source was not queried: it failed shortly before and is probed in the background."""


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one stage did for one request."""

    name: str
    status: Status
    microseconds: int
    candidates_in: int
    candidates_out: int
    cause: str = ""
    bundle_version: str = ""

    def reduced_to(self, share: float) -> StageReport:
        """The report of a stage that worked on `share` of the policy's candidates because of the load."""
        if share == 1.0 or self.status is not Status.OK:
            return self
        return replace(self, status=Status.REDUCED, cause=f"load: {share:.0%} of the usual candidates")


@dataclass(frozen=True, slots=True)
class SourceAnswer(Generic[Result]):
    """What a source says to a batch: one result per query, in order, and which bundle version they come from."""

    results: Sequence[Result]
    bundle_version: str = ""
    """As the source itself says; empty for a source without one."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What a source returned for one query of a batch: a result, or None and the cause."""

    status: Status
    result: Result | None
    microseconds: int
    """Wall time of the call that carried the query."""
    cause: str = ""
    bundle_version: str = ""
    """Of the answer, whether it was used or refused; empty where none could be read."""

    def report(self, name: str, *, candidates_in: int, candidates_out: int) -> StageReport:
        """The report of the stage."""
        return StageReport(
            name, self.status, self.microseconds, candidates_in, candidates_out, self.cause, self.bundle_version
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """The time that a request may take. Durations only: nothing here knows the wall clock."""

    deadline: float
    """On the clock of `time.perf_counter`."""

    @classmethod
    def of(cls, seconds: float) -> Budget:
        """A budget that starts now."""
        return cls(time.perf_counter() + seconds)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.deadline - time.perf_counter())


class PipelineSource(ABC):
    """Anything that the pipeline queries. `name` is the stage's name in reports and metrics."""

    name: str
    bundle_version: str = ""
    """The bundle version that is asked and must answer; empty for a source without one."""

    async def _outcomes(
        self,
        ask: Callable[[Sequence[Query], float], Awaitable[SourceAnswer[Result]]],
        check: Callable[[str, Query, Result], None],
        queries: Sequence[Query],
        timeout: float,  # noqa: ASYNC109
    ) -> list[Outcome[Result]]:
        """What came of each query: an answer of another version, or one that `check` refuses, is as good as none.

        An error that one query may have caused must not cost the others their answers: each is then asked by itself.
        """
        started, answered_by = time.perf_counter(), ""
        try:
            answer = await ask(queries, timeout)
            answered_by = answer.bundle_version
            self._check_version(answered_by)
            if len(answer.results) != len(queries):
                raise ContractBroken(f"{self.name}: {len(answer.results)} results for {len(queries)} queries")
        except RecsysError as error:
            if len(queries) > 1 and type(error) in _OF_ONE_QUERY:
                left = timeout - (time.perf_counter() - started)
                each = await asyncio.gather(*(self._outcomes(ask, check, [query], left) for query in queries))
                return [outcome for outcomes in each for outcome in outcomes]
            return [_failed(error, started, answered_by)] * len(queries)
        microseconds = _microseconds(started)
        outcomes = []
        for query, result in zip(queries, answer.results, strict=True):
            outcome = Outcome(Status.OK, result, microseconds, "", answered_by)
            try:
                check(self.name, query, result)
            except ContractBroken as error:
                outcome = replace(outcome, status=Status.REFUSED, result=None, cause=str(error))
            outcomes.append(outcome)
        return outcomes

    def _check_version(self, found: str) -> None:
        if found != self.bundle_version:
            answer = f"bundle {found}" if found else "no bundle version"
            raise BundleMismatch(
                f"{self.name}: answered with {answer}, expected {self.bundle_version}; restart the process"
            )


class RecallSource(PipelineSource):
    """A recall channel, wherever it runs."""

    latency_ewma: float = 0.0
    """Seconds: exponentially weighted moving average of its latency. The slowest source is queried first."""

    @abstractmethod
    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        """One result per query, in order, within `timeout` seconds; raises a RecsysError otherwise."""

    @final
    async def recall(self, queries: Sequence[RecallQuery], timeout: float) -> list[Outcome[RecallResult]]:  # noqa: ASYNC109
        """Like `fetch`, but never raises a RecsysError: it becomes the outcome of the queries that it concerns."""
        outcomes = await self._outcomes(self.fetch, check_recall_result, queries, timeout)
        if outcomes and outcomes[0].status is Status.OK:
            self.latency_ewma = ewma.updated(self.latency_ewma, outcomes[0].microseconds / 1e6)
        return outcomes


class RankSource(PipelineSource):
    """The ranker, wherever it runs."""

    @abstractmethod
    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ASYNC109
        """One float32 array per query, parallel to its candidates; raises a RecsysError otherwise."""

    @final
    async def rank(self, queries: Sequence[RankQuery], timeout: float) -> list[Outcome[Scores]]:  # noqa: ASYNC109
        """Like `score`, but never raises a RecsysError: it becomes the outcome of the queries that it concerns."""
        return await self._outcomes(self.score, check_scores, queries, timeout)


def _failed(error: RecsysError, started: float, answered_by: str) -> Outcome[Any]:
    status = next((status for kind, status in _STATUS_OF.items() if isinstance(error, kind)), Status.FAILED)
    return Outcome(status, None, _microseconds(started), str(error), answered_by)


def _microseconds(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)


_OF_ONE_QUERY = (InvalidRequest, ContractBroken, RecsysError)
"""Errors of a batch that one of its queries may have caused; RecsysError itself stands for gRPC's INTERNAL."""

_STATUS_OF: dict[type[RecsysError], Status] = {
    DeadlinePassed: Status.TIMEOUT,
    Skipped: Status.SKIPPED,
    ContractBroken: Status.REFUSED,
    BundleError: Status.REFUSED,
    InvalidRequest: Status.REFUSED,
}
