"""The test seam: toy bundles with known answers, fake models, and servers in this process.

Library code, so that tests need not patch anything. The toy world has items 1 to n: odd ones are dramas, even ones
westerns, item i is of the year 1990 + i; a `FakeChannel` prefers small ids, a `FakeRanker` large ones.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from recsys import __version__
from recsys.bundle import (
    FORMAT_VERSION,
    Bundle,
    BundleStore,
    ChannelPolicy,
    FileEntry,
    Manifest,
    Release,
    ServingPolicy,
    golden,
)
from recsys.bundle.manifest import MANIFEST_FILE
from recsys.bundle.store import sha256_of
from recsys.catalogue import Catalogue
from recsys.config import ServerConfig
from recsys.domain import Candidates, History, RankQuery, RecallQuery, RecallResult, Scores
from recsys.errors import InvalidRequest
from recsys.ordering import top_k
from recsys.server.server import Server, Service
from recsys.server.telemetry import Telemetry

TOY_CUTOFF = 1_000
"""Cut-off of toy bundles, and time of the queries below."""

ROLES = ("popularity", "itemcf", "vector", "rank")
"""Roles that a toy bundle has files for."""


def toy_catalogue(n: int = 12) -> Catalogue:
    """Items 1 to n."""
    ids = np.arange(1, n + 1, dtype=np.int64)
    drama = ids % 2 == 1
    return Catalogue(ids, (1990 + ids).astype(np.int16), np.stack([drama, ~drama], axis=1), ("Drama", "Western"))


@dataclass
class FakeChannel:
    """A channel whose score of item i is `scale / i`; the seed of each item is the user's last one."""

    catalogue: Catalogue
    scale: float = 1.0
    sleep_seconds: float = 0.0
    """How long each batch computes."""

    FILE: ClassVar[str] = "scale.npy"

    @classmethod
    def load(cls, bundle: Bundle, role: str) -> Self:
        """Reads what `write_bundle` wrote for the role."""
        scale = np.load(bundle.path(f"{role}/{cls.FILE}"), allow_pickle=False)
        return cls(Catalogue.load(bundle.folder), float(scale))

    def recall(self, queries: Sequence[RecallQuery]) -> list[RecallResult]:
        """The allowed items in order of id."""
        time.sleep(self.sleep_seconds)
        return [self._result(query) for query in queries]

    def _result(self, query: RecallQuery) -> RecallResult:
        scores = (self.scale / self.catalogue.item_ids).astype(np.float32)
        self.catalogue.allowed(query.item_filter, query.exclude_item_ids).forbid(scores, -np.inf)
        rows = top_k(scores, query.count)
        if not len(query.history):
            return RecallResult(self.catalogue.item_ids[rows], scores[rows])
        seeds = np.full(len(rows), query.history.item_ids[-1], np.int64)
        return RecallResult(self.catalogue.item_ids[rows], scores[rows], seeds, np.ones(len(rows), np.bool_))


@dataclass
class FakeRanker:
    """A ranker whose score of item i is `scale * i`, and whose features are the id and the number of channels."""

    catalogue: Catalogue
    scale: float = 1.0
    feature_names: tuple[str, ...] = ("item_id", "channels")

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Reads what `write_bundle` wrote for role `rank`."""
        scale = np.load(bundle.path(f"rank/{FakeChannel.FILE}"), allow_pickle=False)
        return cls(Catalogue.load(bundle.folder), float(scale))

    def score(self, queries: Sequence[RankQuery]) -> list[Scores]:
        """Per query float32[n]; raises InvalidRequest for an unknown item."""
        for query in queries:
            if (self.catalogue.rows(query.candidates.item_ids) < 0).any():
                raise InvalidRequest("item_ids: the toy world has no such item")
        return [(self.scale * query.candidates.item_ids).astype(np.float32) for query in queries]

    def features(self, queries: Sequence[RankQuery]) -> list[NDArray[np.float32]]:
        """Per query float32[n, 2]."""
        return [
            np.stack([query.candidates.item_ids, (query.candidates.ranks > 0).sum(axis=1)], axis=1).astype(np.float32)
            for query in queries
        ]


def toy_recall_query(count: int = 5) -> RecallQuery:
    """A warm user's query; the user has seen item 2."""
    return RecallQuery(History.of([2], [TOY_CUTOFF - 1], values=[4.0]), TOY_CUTOFF, count, np.asarray([2], np.int64))


def toy_rank_query(item_ids: Sequence[int] = (3, 1)) -> RankQuery:
    """A warm user's candidates, all from popularity."""
    n = len(item_ids)
    candidates = Candidates.without_seeds(
        np.asarray(item_ids, np.int64),
        ("popularity",),
        np.linspace(1, 0, n, dtype=np.float32)[:, None],
        np.arange(1, n + 1, dtype=np.int32)[:, None],
    )
    return RankQuery(History.of([2], [TOY_CUTOFF - 1], values=[4.0]), TOY_CUTOFF, candidates)


def write_bundle(
    root: Path,
    version: str,
    *,
    roles: Sequence[str] = ROLES,
    scale: float = 1.0,
    extra: Callable[[Path], None] | None = None,
) -> Bundle:
    """Writes a valid bundle below `root`, golden requests included; `release` makes it current.

    What `extra(folder)` writes below `folder/<role>/` belongs to that role, if `roles` names it.
    """
    folder, catalogue = root / version, toy_catalogue()
    catalogue.save(folder)
    for role in roles:
        (folder / role).mkdir()
        np.save(folder / role / FakeChannel.FILE, np.float64(scale))
        if role == "rank":
            golden.record_rank(folder, [toy_rank_query()], FakeRanker(catalogue, scale).score)
        else:
            golden.record_recall(folder, role, [toy_recall_query()], FakeChannel(catalogue, scale).recall)
    if extra is not None:
        extra(folder)
    manifest = _manifest(folder, version, roles)
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(), encoding="utf-8")
    return BundleStore(root).open(version)


def release(root: Path, current: str, previous: str | None = None) -> None:
    """Makes `current` the released version."""
    BundleStore(root).write_release(Release(current, previous))


def _manifest(folder: Path, version: str, roles: Sequence[str]) -> Manifest:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in paths
    }
    channels = tuple(ChannelPolicy(name=role, count=10, weight=1.0) for role in roles if role in ROLES[:3])
    return Manifest(
        format_version=FORMAT_VERSION,
        bundle_version=version,
        purpose="production",
        dataset="toy",
        cutoff=TOY_CUTOFF,
        events_watermarks={},
        created="2000-01-01T00:00:00+00:00",
        software_version=__version__,
        feature_names=FakeRanker.feature_names,
        index=None,
        policy=ServingPolicy(channels=channels, rank_count=10, ranking="ranked", serving_clock="cutoff"),
        roles={
            role: tuple(name for name in files if name.startswith(("catalogue/", f"{role}/", f"golden/{role}.json")))
            for role in roles
        },
        files=files,
    )


@asynccontextmanager
async def serving(
    services: Sequence[Service], *, config: ServerConfig | None = None, telemetry: Telemetry | None = None
) -> AsyncIterator[str]:
    """A real server in this process on a free port, SERVING; yields its HOST:PORT."""
    config = config or ServerConfig()
    server = Server(config, telemetry or Telemetry.create(), services)
    port = server.bind()
    await server.start()
    await server.set_serving(serving=True)
    try:
        yield f"{config.host}:{port}"
    finally:
        await server.drain(0)
