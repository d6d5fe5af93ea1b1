"""The pipeline's sources in this process, and a driver: evaluation and training samples run what serves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from gateway.pipeline.stages import Budget, RankSource, RecallSource, SourceAnswer
from gateway.pipeline.work import Answer
from rank_server.scoring import Ranker
from recall_server.channels.base import Channel
from recsys.catalogue import Catalogue
from recsys.domain import NO_IDS, RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import ContractBroken

BATCH = 64
UNLIMITED_SECONDS = 86_400.0
"""Offline nothing is late."""


class ChannelSource(RecallSource):
    """A recall channel in this process."""

    def __init__(self, channel: Channel) -> None:
        self.name = channel.name
        self._channel = channel

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ARG002, ASYNC109
        """Asks the channel."""
        return SourceAnswer(self._channel.recall(queries))


class RankerSource(RankSource):
    """A ranker in this process."""

    name = "rank"

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ARG002, ASYNC109
        """Asks the ranker."""
        return SourceAnswer(self._ranker.score(queries))


class RecordingSource(RankSource):
    """Takes the ranker's place and records its queries, in order; all candidates score alike."""

    name = "rank"

    def __init__(self) -> None:
        self.queries: list[RankQuery] = []

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ARG002, ASYNC109
        """Keeps the queries."""
        self.queries += queries
        return SourceAnswer([np.zeros(len(query.candidates), np.float32) for query in queries])


def no_fallback(catalogue: Catalogue) -> Fallback:
    """A fallback that returns nothing: offline, a channel is evaluated on its own items."""
    return Fallback(catalogue, NO_IDS)


def run_pipeline(
    pipeline: Pipeline, requests: Sequence[Request], *, batch: int = BATCH, title: str = "requests"
) -> list[Answer]:
    """Answers `requests` in order, `batch` at a time.

    Raises ContractBroken where an answer is degraded: offline, half an answer is an error, not a service.
    """
    answers: list[Answer] = []
    with tqdm(total=len(requests), desc=title, unit="request", leave=False, disable=None) as progress:
        for start in range(0, len(requests), batch):
            part = requests[start : start + batch]
            answers += asyncio.run(pipeline.run(part, Budget.of(UNLIMITED_SECONDS)))
            progress.update(len(part))
            _refuse_degraded(answers[start:])
    return answers


def _refuse_degraded(answers: Sequence[Answer]) -> None:
    for answer in answers:
        for stage in answer.stages:
            if stage.cause:
                raise ContractBroken(f"{stage.name}: {stage.cause}")
