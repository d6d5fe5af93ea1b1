"""A small world for the gateway: its files, bundles of them, and other processes that behave as a test wants."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np

from gateway.bundle.gateway_golden import record_gateway
from gateway.bundle.state import FILES, StoredHistories, write_gateway_files
from recall_server.servicer import Recaller, answer
from recsys import __version__, convert
from recsys.bundle import (
    FORMAT_VERSION,
    Bundle,
    BundleStore,
    ChannelPolicy,
    FileEntry,
    Manifest,
    Release,
    ServingPolicy,
)
from recsys.bundle.golden import golden_file
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import EventType, RecallQuery, RecallResult
from recsys.identity import FIRST_ASSIGNED
from recsys.v1 import rank_pb2, rank_pb2_grpc, recall_pb2, recall_pb2_grpc, types_pb2
from tests.older import as_older

CUTOFF = 1_000
"""Moment of the toy bundle; the last stored event happened then."""

KEYED_ITEM = FIRST_ASSIGNED
"""The item whose key is no number: tt12."""

ADA = FIRST_ASSIGNED
"""The user whose key is no number: ada, who has seen items 1 and 2."""

ITEM_IDS = [*range(1, 12), KEYED_ITEM]
POPULAR = [3, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, KEYED_ITEM]
CHANNELS = ("popularity", "itemcf", "vector")


def catalogue() -> Catalogue:
    """Items 1 to 11 and tt12; odd ones are dramas, even ones westerns; item n is of 1990 + n, tt12 has no year."""
    years = np.asarray([*(1990 + n for n in range(1, 12)), -32_768], np.int16)
    drama = np.asarray([n % 2 == 1 for n in range(1, 13)])
    return Catalogue(np.asarray(ITEM_IDS, np.int64), years, np.stack([drama, ~drama], axis=1), ("Drama", "Western"))


def histories() -> StoredHistories:
    """User 4 rated 1 and viewed 2; ada rated 1, saved 2 and disliked 3."""
    kinds = EventType
    return StoredHistories(
        np.asarray([4, ADA], np.int64),
        np.asarray([0, 2, 5], np.int64),
        np.asarray([1, 2, 1, 2, 3], np.int64),
        np.asarray([100, 200, 300, 900, CUTOFF], np.int64),
        np.asarray([kinds.RATING, kinds.VIEW, kinds.RATING, kinds.SAVE, kinds.DISLIKE], np.int8),
        np.asarray([4.5, np.nan, 5.0, np.nan, np.nan], np.float32),
    )


def policy(
    *, ranking: Literal["ranked", "blended"] = "ranked", clock: Literal["wall", "cutoff"] = "cutoff"
) -> ServingPolicy:
    """Three channels of eight candidates each; popularity sees no history, itemcf the last event."""
    return ServingPolicy(
        channels=(
            ChannelPolicy(name="popularity", count=8, weight=0.5, history_limit=0),
            ChannelPolicy(name="itemcf", count=8, weight=1.0),
            ChannelPolicy(name="vector", count=8, weight=1.0, history_limit=1),
        ),
        rank_count=10,
        ranking=ranking,
        serving_clock=clock,
    )


def write_bundle(
    root: Path,
    version: str,
    *,
    policy: ServingPolicy,
    watermarks: Mapping[str, int] | None = None,
    previous: str | None = None,
    damaged: str = "",
) -> Bundle:
    """Writes and releases a bundle that holds the gateway's files; one bit of the file `damaged` is flipped."""
    folder = root / version
    items = catalogue()
    items.save(folder)
    ItemTexts.of([*map(str, range(1, 12)), "tt12"], [f"Film {n}" for n in range(1, 13)]).save(folder)
    popular = np.asarray(POPULAR, np.int64)
    write_gateway_files(folder, histories=histories(), user_keys={"ada": ADA}, popular_item_ids=popular)
    record_gateway(folder, [4, ADA])
    names = (*FILES, golden_file("gateway"))
    contents = {name: (folder / name).read_bytes() for name in names}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bundle_version=version,
        purpose="production",
        dataset="toy",
        cutoff=CUTOFF,
        events_watermarks=dict(watermarks or {}),
        created="2024-01-01T00:00:00+00:00",
        software_version=__version__,
        feature_names=(),
        index=None,
        policy=policy,
        roles={"gateway": names},
        files={
            name: FileEntry(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
            for name, content in contents.items()
        },
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    if damaged:
        content = bytearray(contents[damaged])
        content[-1] ^= 1
        (folder / damaged).write_bytes(content)
    BundleStore(root).write_release(Release(version, previous))
    return Bundle(folder, manifest)


def ranked_list(item_ids: Sequence[int], *, seed: int | None = None) -> RecallResult:
    """A channel's result: these items in this order, scores falling from 1."""
    n = len(item_ids)
    result = RecallResult(np.asarray(item_ids, np.int64), (1.0 - 0.01 * np.arange(n)).astype(np.float32))
    return (
        result if seed is None else replace(result, seed_item_ids=np.full(n, seed), seed_present=np.ones(n, np.bool_))
    )


Answer = Callable[[Any], Any]


@dataclass
class FakeProcess:
    """Another process: what it says of itself and how it answers; a test changes either while it runs."""

    role: str
    ready: list[str] = field(default_factory=lambda: ["v1"])
    refused: dict[str, str] = field(default_factory=dict)
    item_ids: Sequence[int] = ()
    """What a recall channel returns, best first, whatever the query's filters; excluded items are left out."""
    real: Recaller | None = None
    """The channel that answers instead, as its own process would."""
    seed: int | None = None
    delay: float = 0.0
    failure: grpc.StatusCode | None = None
    channel: str = ""
    """The channel that answers claim to come from; empty: the role."""
    version: str = ""
    """The version that answers claim to come from; empty: the one asked for."""
    tamper: Callable[[Any], None] = lambda response: None
    """Changes a response before it leaves."""
    older: bool = False
    """Whether it is of the version that knows no packed lists."""
    requests: list[Any] = field(default_factory=list)
    port: int = 0

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def status(self) -> types_pb2.ServingStatus:
        """What it says of itself."""
        refused = [types_pb2.RefusedVersion(bundle_version=name, reason=why) for name, why in self.refused.items()]
        status = types_pb2.ServingStatus(
            role=self.role, ready_versions=self.ready, refused_versions=refused, reads_packed=True
        )
        return as_older(status) if self.older else status

    def recall(self, queries: Sequence[RecallQuery]) -> list[RecallResult]:
        """What a recall channel that is not real answers."""
        return [self._listed(query) for query in queries]

    def _listed(self, query: RecallQuery) -> RecallResult:
        kept = [item_id for item_id in self.item_ids if item_id not in query.exclude_item_ids]
        return ranked_list(kept[: query.count], seed=self.seed)

    def scores(self, request: rank_pb2.RankRequest) -> rank_pb2.RankResponse:
        """What the ranker answers: the last digits of the id of each item."""
        response = rank_pb2.RankResponse(packed=request.packed_results)
        for query in request.queries:
            scores = (convert.rank_query_from_proto(query).candidates.item_ids % 1000).astype(np.float32)
            convert.rank_result_to_proto(scores, response.results.add(), packed=request.packed_results)
        return response

    async def behave(self, request: Any, context: Any) -> None:
        """Is late, fails, or does neither."""
        self.requests.append(request)
        await asyncio.sleep(self.delay)
        if self.failure is not None:
            await context.abort(self.failure, "as the test wants it")
        if request.bundle_version not in self.ready:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"holds only {self.ready}")


class _Recall(recall_pb2_grpc.RecallServiceServicer):
    def __init__(self, process: FakeProcess) -> None:
        self.process = process

    async def Recall(self, request: Any, context: Any) -> recall_pb2.RecallResponse:  # noqa: N802
        process = self.process
        request = as_older(request) if process.older else request
        await process.behave(request, context)
        response = answer(process.real or process, request)
        response.channel = process.channel or process.role
        response.bundle_version = process.version or request.bundle_version
        response.queue_microseconds, response.compute_microseconds = 10, 20
        process.tamper(response)
        return as_older(response) if process.older else response

    async def Status(self, request: Any, context: Any) -> recall_pb2.RecallServiceStatusResponse:  # noqa: N802
        return recall_pb2.RecallServiceStatusResponse(status=self.process.status())


class _Rank(rank_pb2_grpc.RankServiceServicer):
    def __init__(self, process: FakeProcess) -> None:
        self.process = process

    async def Rank(self, request: Any, context: Any) -> rank_pb2.RankResponse:  # noqa: N802
        process = self.process
        request = as_older(request) if process.older else request
        await process.behave(request, context)
        response = process.scores(request)
        response.bundle_version = process.version or request.bundle_version
        process.tamper(response)
        return as_older(response) if process.older else response

    async def Status(self, request: Any, context: Any) -> rank_pb2.RankServiceStatusResponse:  # noqa: N802
        return rank_pb2.RankServiceStatusResponse(status=self.process.status())


@asynccontextmanager
async def running(process: FakeProcess) -> AsyncIterator[FakeProcess]:
    """Serves a fake process; on the port it had before where it ran already."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    if process.role == "rank":
        rank_pb2_grpc.add_RankServiceServicer_to_server(_Rank(process), server)
    else:
        recall_pb2_grpc.add_RecallServiceServicer_to_server(_Recall(process), server)
    process.port = server.add_insecure_port(process.target)
    await server.start()
    try:
        yield process
    finally:
        await server.stop(None)


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = 5_000.0

    def __call__(self) -> float:
        return self.now
