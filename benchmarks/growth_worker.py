"""What one catalogue costs: the whole recommender of one bundle in one process and one thread, for `growth.py`.

    python benchmarks/growth_worker.py --bundles ROOT [--users 64]

Prints a line of JSON when it is ready, and one for each line on standard input: the name of a task (CPU microseconds
per request), `memory`, or `recall`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from gateway.bundle.served import ServedBundle
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from gateway.pipeline.stages import Budget, RankSource, RecallSource, SourceAnswer
from gateway.pipeline.work import Answer
from offline.ranking.in_process import UNLIMITED_SECONDS, ChannelSource, RankerSource
from rank_server.scoring import Ranker
from recall_server.channels.base import Channel
from recall_server.channels.registry import channel_class
from recsys.bundle import BundleStore
from recsys.channels import DEFAULT_CHANNELS
from recsys.domain import ItemFilter, RankQuery, RecallQuery, RecallResult, Scores

COUNT = 10
BATCH = 16
CHECKED_USERS = 300
"""Users whose lists by an index are compared with those of a scan."""
BEST = 100
MANY_SEEN = 2_000
"""Excluded items of a heavy user, the nearest to the user's vector: the most that a request may name."""
INDEXED = ("vector", "als", "content")


class Recorder(RecallSource):
    """A channel that keeps its queries and results."""

    def __init__(self, channel: Channel) -> None:
        self.name = channel.name
        self.channel = channel
        self.queries: list[RecallQuery] = []
        self.results: list[RecallResult] = []

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ARG002, ASYNC109
        found = self.channel.recall(queries)
        self.queries += queries
        self.results += found
        return SourceAnswer(found)


class Replayed(RecallSource):
    """Answers what a `Recorder` kept, in turn: what remains is the gateway's own work."""

    def __init__(self, recorded: Recorder) -> None:
        self.name = recorded.name
        self._results = recorded.results
        self._next = 0

    async def fetch(self, queries: Sequence[RecallQuery], timeout: float) -> SourceAnswer[RecallResult]:  # noqa: ARG002, ASYNC109
        found = [self._results[(self._next + n) % len(self._results)] for n in range(len(queries))]
        self._next += len(queries)
        return SourceAnswer(found)


class ReplayedRanker(RankSource):
    """The same in the ranker's place: it keeps the queries, and later only answers."""

    name = "rank"

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker
        self.queries: list[RankQuery] = []
        self._scores: list[Scores] = []
        self._next = -1

    def replay(self) -> None:
        """From now on it answers what it has kept, in turn."""
        self._next = 0

    async def score(self, queries: Sequence[RankQuery], timeout: float) -> SourceAnswer[Scores]:  # noqa: ARG002, ASYNC109
        if self._next < 0:
            scores = self._ranker.score(queries)
            self.queries += queries
            self._scores += scores
            return SourceAnswer(scores)
        found = [self._scores[(self._next + n) % len(self._scores)] for n in range(len(queries))]
        self._next += len(queries)
        return SourceAnswer(found)


@dataclass
class Recommender:
    """One bundle in this process."""

    served: ServedBundle
    channels: dict[str, Channel]
    ranker: Ranker
    runner: asyncio.Runner

    def pipeline(self, sources: Sequence[RecallSource], ranker: RankSource) -> Pipeline:
        """That of the bundle's policy, with the channels that are there."""
        policy = self.served.manifest.policy
        names = [source.name for source in sources]
        kept = tuple(channel for channel in policy.channels if channel.name in names)
        policy = policy.model_copy(update={"channels": kept})
        return Pipeline(self.served.catalogue, policy, sources, ranker, self.served.fallback)

    def of(self, names: Sequence[str]) -> Pipeline:
        """With the channels `names`."""
        return self.pipeline([ChannelSource(self.channels[name]) for name in names], RankerSource(self.ranker))

    def answers(self, pipeline: Pipeline, requests: Sequence[Request], *, batch: int = 1) -> list[Answer]:
        """The answers to `requests`; raises RuntimeError for one that is degraded."""
        answers: list[Answer] = []
        for start in range(0, len(requests), batch):
            part = requests[start : start + batch]
            answers += self.runner.run(pipeline.run(part, Budget.of(UNLIMITED_SECONDS)))
        if any(answer.degraded for answer in answers):
            raise RuntimeError("an answer is degraded")
        return answers

    def requests(self, n: int) -> list[Request]:
        """Of `n` users with histories of every length."""
        stored = self.served.histories
        by_length = np.argsort(np.diff(stored.indptr), kind="stable")
        rows = by_length[np.linspace(0.02 * len(by_length), 0.98 * len(by_length) - 1, n).astype(np.int64)]
        made = []
        for user_id in stored.user_ids[rows].tolist():
            history = stored.of(user_id)
            made.append(Request(history, self.served.as_of(history, 0), COUNT, user_id=user_id))
        return made


def open_recommender(bundles: Path, runner: asyncio.Runner) -> Recommender:
    """Loads what every process of the released bundle loads."""
    store = BundleStore(bundles)
    bundle = store.open(store.release().current)
    names = [channel.name for channel in bundle.manifest.policy.channels]
    channels = {name: channel_class(name).load(bundle) for name in names}
    return Recommender(ServedBundle.load(bundle, ""), channels, Ranker.load(bundle), runner)


Task = Callable[[], object]


def tasks_of(recommender: Recommender, requests: Sequence[Request]) -> dict[str, Task]:
    """By name what is measured, each one pass over all requests."""
    recorders = [Recorder(recommender.channels[name]) for name in recommender.channels]
    ranked = ReplayedRanker(recommender.ranker)
    recommender.answers(recommender.pipeline(recorders, RankerSource(recommender.ranker)), requests)
    kept = [Recorder(recorder.channel) for recorder in recorders if recorder.name in DEFAULT_CHANNELS]
    recommender.answers(recommender.pipeline(kept, ranked), requests)
    ranked.replay()
    usual, answers = recommender.of(DEFAULT_CHANNELS), recommender.answers
    tasks: dict[str, Task] = {
        "request": partial(answers, usual, requests),
        "request, in batches of 16": partial(answers, usual, requests, batch=BATCH),
        "request, all channels": partial(answers, recommender.of(list(recommender.channels)), requests),
        "gateway": partial(answers, recommender.pipeline([Replayed(recorder) for recorder in kept], ranked), requests),
        "rank": partial(one_by_one, recommender.ranker.score, ranked.queries),
    }
    for recorder in recorders:
        tasks[recorder.name] = partial(one_by_one, recorder.channel.recall, recorder.queries)
    for name, asked in variants(recommender, requests).items():
        tasks[name] = partial(answers, usual, asked)
    return tasks


def one_by_one(ask: Callable[[Sequence[object]], object], queries: Sequence[object]) -> None:
    """Asks for every query by itself."""
    for query in queries:
        ask([query])


def variants(recommender: Recommender, requests: Sequence[Request]) -> dict[str, list[Request]]:
    """The same requests with filters, preferred genres of newcomers, and a heavy user's exclusions."""
    catalogue = recommender.served.catalogue
    shares = catalogue.genres.mean(axis=0)
    by_share = [catalogue.genre_names[column] for column in np.argsort(-shares)]
    wide, narrow = by_share[:4], by_share[-4:]
    filters = {
        "request, a common genre": [ItemFilter(genres_any=(name,)) for name in wide],
        "request, a rare genre": [ItemFilter(genres_any=(name,)) for name in narrow],
        "request, without a genre": [ItemFilter(genres_none=(name,)) for name in wide],
    }
    asked = {
        name: [replace(request, item_filter=expressions[at % 4]) for at, request in enumerate(requests)]
        for name, expressions in filters.items()
    }
    newcomers = [
        replace(request, history=request.history.last(0), preferred_genres=(wide[at % 4], narrow[at % 3]))
        for at, request in enumerate(requests)
    ]
    vector = recommender.channels["vector"]
    heavy = []
    for request in requests:
        query = RecallQuery(request.history.sequence().last(200), request.as_of, MANY_SEEN)
        seen = np.sort(vector.recall([query])[0].item_ids)
        heavy.append(replace(request, exclude_item_ids=seen))
    return {**asked, "request, newcomer with two preferred genres": newcomers, "request, 2,000 more seen items": heavy}


def recall(recommender: Recommender, bundles: Path) -> dict[str, float]:
    """Of each channel with an index, the share of a scan's best hundred that it finds; and of the answers' items."""
    requests = recommender.requests(CHECKED_USERS)
    store = BundleStore(bundles)
    folder = store.open(store.release().current).folder
    exact = {
        name: channel_class(name).open(folder, exact=True) if name in INDEXED else channel  # type: ignore[call-arg]
        for name, channel in recommender.channels.items()
    }
    found = {}
    for name in (name for name in INDEXED if name in exact):
        recorder = Recorder(recommender.channels[name])
        recommender.answers(recommender.pipeline([recorder], RankerSource(recommender.ranker)), requests)
        shares = [
            np.isin(expected.item_ids[:BEST], result.item_ids[:BEST]).mean()
            for result, expected in zip(recorder.results, exact[name].recall(recorder.queries), strict=True)
            if len(expected)
        ]
        found[name] = float(np.mean(shares))
    answers = [
        replace(recommender, channels=channels).of(DEFAULT_CHANNELS) for channels in (recommender.channels, exact)
    ]
    by_index, by_scan = (recommender.answers(pipeline, requests) for pipeline in answers)
    same = [
        np.isin(expected.candidates.item_ids, answer.candidates.item_ids).mean()
        for answer, expected in zip(by_index, by_scan, strict=True)
    ]
    return {**found, "answers": float(np.mean(same))}


def first_filter(recommender: Recommender) -> float:
    """CPU microseconds of the first request with a filter, at one channel: it is tested on every item."""
    started = time.process_time()
    recommender.served.catalogue.compiled(
        ItemFilter(genres_none=recommender.served.catalogue.genre_names[:1], min_year=1)
    )
    return (time.process_time() - started) * 1e6


def memory_mib() -> dict[str, float]:
    """MiB of this process: its own pages, and those of mapped files."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Pss_Anon", "Pss_File"):
            fields[name] = int(value.split()[0]) / 1024
    return {"own": fields["Pss_Anon"], "mapped": fields["Pss_File"]}


def main() -> None:
    """Measures until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, required=True, help="root of a bundle store")
    parser.add_argument("--users", type=int, default=64)
    options = parser.parse_args()
    with asyncio.Runner() as runner:
        started = time.process_time()
        recommender = open_recommender(options.bundles, runner)
        loaded = time.process_time() - started
        tasks = tasks_of(recommender, recommender.requests(options.users))
        facts = {"load_seconds": loaded, "first_filter_us": first_filter(recommender), "tasks": list(tasks)}
        print(json.dumps(facts), flush=True)
        for line in sys.stdin:
            name = line.strip()
            if name in tasks:
                started = time.process_time()
                tasks[name]()
                print(json.dumps((time.process_time() - started) / options.users * 1e6), flush=True)
            else:
                said = memory_mib() if name == "memory" else recall(recommender, options.bundles)
                print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
