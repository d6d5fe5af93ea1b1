"""The contracts of the pipeline's sources, and the report that every stage writes.

Whoever adds a source writes `fetch` (or `score`) and nothing about time, errors or checks: the final `recall` and
`rank` turn whatever happens into an `Outcome`, so a source that is late, down or wrong costs only itself.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar, final

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

EWMA_ALPHA = 0.1
"""Weight of the latest call in `RecallSource.latency_ewma`."""

Query = TypeVar("Query")
Result = TypeVar("Result")


class Status(IntEnum):
    """How a stage went; the numbers are those of `recsys.v1.StageStatus`."""

    OK = 1
    TIMEOUT = 2
    FAILED = 3
    SKIPPED = 4
    REFUSED = 5


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


@dataclass(frozen=True, slots=True)
class SourceAnswer(Generic[Result]):
    """What a source says to a batch: one result per query, in order, and which bundle version they come from."""

    results: Sequence[Result]
    bundle_version: str = ""
    """As the source itself says; empty for a source without one."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What a source returned for a batch: one result per query, or None and the cause."""

    status: Status
    results: Sequence[Result] | None
    microseconds: int
    cause: str = ""
    bundle_version: str = ""
    """Of the answer, whether it was used or refused; empty where none could be read."""

    def report(self, name: str, *, candidates_in: int, candidates_out: int) -> StageReport:
        """The report of one request's part in this outcome."""
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

    def share(self, fraction: float) -> float:
        """Seconds: `fraction` of what is left."""
        return self.remaining() * fraction


class PipelineSource(ABC):
    """Anything that the pipeline queries. `name` is the stage's name in reports and metrics."""

    name: str
    bundle_version: str = ""
    """The bundle version that is asked and must answer; empty for a source without one."""

    async def _outcome(
        self,
        asked: Awaitable[SourceAnswer[Result]],
        queries: Sequence[Query],
        check: Callable[[str, Query, Result], None],
    ) -> Outcome[Result]:
        """What came of asking: an answer of another version, or one that `check` refuses, is as good as none."""
        started, answered_by = time.perf_counter(), ""
        try:
            answer = await asked
            answered_by = answer.bundle_version
            self._check_version(answered_by)
            for query, result in _paired(self.name, queries, answer.results):
                check(self.name, query, result)
        except RecsysError as error:
            status = next((status for kind, status in _STATUS_OF.items() if isinstance(error, kind)), Status.FAILED)
            return Outcome(status, None, _microseconds(started), str(error), answered_by)
        return Outcome(Status.OK, answer.results, _microseconds(started), bundle_version=answered_by)

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
    async def recall(self, queries: Sequence[RecallQuery], timeout: float) -> Outcome[RecallResult]:  # noqa: ASYNC109
        """Like `fetch`, but never raises a RecsysError: it becomes the outcome."""
        outcome = await self._outcome(self.fetch(queries, timeout), queries, check_recall_result)
        if outcome.status is Status.OK:
            self.latency_ewma += EWMA_ALPHA * (outcome.microseconds / 1e6 - self.latency_ewma)
        return outcome


class RankSource(PipelineSource):
    """The ranker, wherever it runs."""

    @abstractmethod
    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ASYNC109
        """One float32 array per query, parallel to its candidates; raises a RecsysError otherwise."""

    @final
    async def rank(self, queries: Sequence[RankQuery], timeout: float) -> Outcome[Scores]:  # noqa: ASYNC109
        """Like `score`, but never raises a RecsysError: it becomes the outcome."""
        return await self._outcome(self.score(queries, timeout), queries, check_scores)


def _paired(name: str, queries: Sequence[Query], results: Sequence[Result]) -> zip[tuple[Query, Result]]:
    if len(queries) != len(results):
        raise ContractBroken(f"{name}: {len(results)} results for {len(queries)} queries")
    return zip(queries, results, strict=True)


def _microseconds(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)


_STATUS_OF: dict[type[RecsysError], Status] = {
    DeadlinePassed: Status.TIMEOUT,
    Skipped: Status.SKIPPED,
    ContractBroken: Status.REFUSED,
    BundleError: Status.REFUSED,
    InvalidRequest: Status.REFUSED,
}
