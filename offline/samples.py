"""The ranker's training data: recall's real output at an earlier cut-off, labelled by what users did next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from gateway.pipeline import Pipeline
from offline.interactions import Snapshot
from offline.sources import ChannelSource, RecordingSource, no_fallback, run_pipeline
from offline.targets import Targets
from recall_server.channels.base import Channel
from recsys.bundle import ServingPolicy
from recsys.domain import Ids, RankQuery
from recsys.features import FeatureStore, ItemEvents

ARRAYS = ("features", "labels", "groups", "relevant_counts", "warm")


class SamplesConfig(BaseModel):
    """Which requests become training data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_users: int = Field(default=1_500, ge=1, description="most users per window, drawn with the seed")


@dataclass(frozen=True, slots=True)
class Samples:
    """Candidates of many requests, one after another, each request's best blended first."""

    features: NDArray[np.float32]
    """float32[n, F]."""
    labels: NDArray[np.int8]
    """int8[n]: 1 where the candidate is relevant."""
    groups: NDArray[np.int64]
    """int64[requests]: number of candidates of each request; they sum to n."""
    relevant_counts: NDArray[np.int64]
    """int64[requests]: relevant items of each request, found by recall or not; at least 1."""
    warm: NDArray[np.bool_]
    """bool[requests]: whether the user has a history."""

    def save(self, folder: Path) -> None:
        """Writes one .npy file per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def open(cls, folder: Path) -> Samples:
        """Memory-maps what `save` wrote."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS))


def collect(snapshot: Snapshot, channels: Sequence[Channel], targets: Targets, *, policy: ServingPolicy) -> Samples:
    """Samples of `targets`, made with channels trained at the snapshot's cut-off and asked as `policy` says.

    `FeatureStore` and recall see the snapshot only, so nothing after the cut-off but the label reaches a sample.
    """
    store = feature_store(snapshot, policy)
    queries = record_queries(snapshot, channels, targets, policy=policy)
    features = [store.features(query) for query in tqdm(queries, desc="features", unit="request", leave=False)]
    labels = [
        np.isin(query.candidates.item_ids, ids) for query, ids in zip(queries, relevant_lists(targets), strict=True)
    ]
    return Samples(
        np.concatenate([*features, np.empty((0, len(store.feature_names)), np.float32)]),
        np.concatenate([*labels, np.empty(0, np.bool_)]).astype(np.int8),
        np.asarray([len(query.candidates) for query in queries], np.int64),
        targets.relevant.counts,
        targets.warm,
    )


def feature_store(snapshot: Snapshot, policy: ServingPolicy) -> FeatureStore:
    """The features at the snapshot's cut-off, with columns for the channels of `policy`."""
    events = snapshot.events
    return FeatureStore.build(
        snapshot.catalogue,
        ItemEvents(events.item_rows, events.timestamps, events.values),
        cutoff=snapshot.cutoff,
        channels=[channel.name for channel in policy.channels],
    )


def record_queries(
    snapshot: Snapshot, channels: Sequence[Channel], targets: Targets, *, policy: ServingPolicy
) -> list[RankQuery]:
    """What the ranker would be asked, request by request, candidates best blended first."""
    recorder = RecordingSource()
    pipeline = Pipeline(
        snapshot.catalogue,
        policy.model_copy(update={"ranking": "ranked"}),
        [ChannelSource(channel) for channel in channels],
        recorder,
        no_fallback(snapshot.catalogue),
    )
    run_pipeline(pipeline, targets.requests, title="recall")
    return recorder.queries


def relevant_lists(targets: Targets) -> list[Ids]:
    """The relevant ids of each request."""
    return np.split(targets.relevant.item_ids, targets.relevant.indptr[1:-1])
