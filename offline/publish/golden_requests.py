"""Golden requests of a bundle: what each role answers here and now, for its process to repeat before it serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.bundle import gateway_golden
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from gateway.pipeline.stages import SourceAnswer
from offline.dataset.interactions import Snapshot
from offline.ranking.in_process import ChannelSource, RankerSource, no_fallback, run_pipeline
from rank_server.scoring import Ranker
from recall_server.channels.registry import channel_class
from recsys.bundle import ServingPolicy
from recsys.bundle.golden import record_rank, record_recall
from recsys.catalogue import Catalogue
from recsys.domain import History, RankQuery, RecallQuery, RecallResult, Scores

RANKED = 50
"""Candidates of a golden rank query: they reveal a difference as well as hundreds, and are small on disk."""

GOLDEN_USERS = 6
"""Golden requests at most: users with histories of several lengths, and the last one without any."""

GOLDEN_COUNT = 50
"""Items that a golden request asks for."""


def golden_requests(snapshot: Snapshot) -> list[Request]:
    """Users with long and short histories, and one without any."""
    by_length = (snapshot.indptr[1:] - snapshot.indptr[:-1]).argsort(kind="stable")
    chosen = [by_length[int(len(by_length) * share)] for share in (0.05, 0.3, 0.5, 0.7, 0.9)]
    users = [int(snapshot.user_ids[row]) for row in dict.fromkeys(chosen)][: GOLDEN_USERS - 1]
    asked = [Request(snapshot.history(user), snapshot.cutoff, GOLDEN_COUNT, user_id=user) for user in users]
    return [*asked, Request(History.empty(), snapshot.cutoff, GOLDEN_COUNT)]


class _TappedChannel(ChannelSource):
    """A channel in this process that remembers what it was asked."""

    def __init__(self, name: str, folder: Path) -> None:
        self.channel = channel_class(name).open(folder)
        super().__init__(self.channel)
        self.queries: list[RecallQuery] = []

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ASYNC109
        self.queries += queries
        return await super().fetch(queries, timeout)


class _TappedRanker(RankerSource):
    """The ranker in this process, remembering what it was asked."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__(ranker)
        self.queries: list[RankQuery] = []

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ASYNC109
        self.queries += queries
        return await super().score(queries, timeout)


def write_golden(folder: Path, policy: ServingPolicy, requests: Sequence[Request]) -> None:
    """Answers `requests` with the files of the unpublished bundle `folder` and records every role's part."""
    catalogue, ranker = Catalogue.load(folder), Ranker.open(folder)
    channels = [_TappedChannel(channel.name, folder) for channel in policy.channels]
    tapped = _TappedRanker(ranker)
    ranked = policy.model_copy(update={"ranking": "ranked", "rank_count": RANKED})
    run_pipeline(Pipeline(catalogue, ranked, channels, tapped, no_fallback(catalogue)), requests, title="golden")
    for channel in channels:
        record_recall(folder, channel.name, channel.queries, channel.channel.recall)
    record_rank(folder, tapped.queries, ranker.score)
    gateway_golden.record_gateway(folder, [request.user_id for request in requests if request.user_id is not None])
