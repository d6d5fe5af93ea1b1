"""Recall's output for the requests of one cut-off, with the features that serving computes, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline.pipeline import Pipeline
from offline.dataset.interactions import Snapshot
from offline.protocols.targets import Targets
from offline.ranking.in_process import ChannelSource, RecordingSource, no_fallback, run_pipeline
from offline.ranking.samples.arrays import SampleHistories, Samples
from offline.ranking.samples.config import SamplesConfig
from offline.ranking.samples.negatives import Mixture
from recall_server.channels.base import Channel
from recsys.bundle import ServingPolicy
from recsys.domain import NO_IDS, Ids, RankQuery, Scores
from recsys.features import FeatureStore, ItemEvents
from recsys.features.rating import RatingModel


@dataclass(frozen=True, slots=True)
class Collector:
    """Makes samples from what is known at one cut-off: its channels and its features."""

    store: FeatureStore
    channels: Sequence[Channel]
    policy: ServingPolicy
    mixture: Mixture | None = None
    """What negatives are kept and added; None: recall's output as it is."""

    @classmethod
    def of(
        cls, store: FeatureStore, channels: Sequence[Channel], policy: ServingPolicy, config: SamplesConfig
    ) -> Collector:
        """A collector of the candidates that `config` asks for."""
        return cls(store, channels, policy, Mixture.of(store, config) if config.candidates == "mixed" else None)

    def samples(self, targets: Targets) -> Samples:
        """The samples of `targets`, request by request."""
        queries = record_queries(self.store, self.channels, targets, policy=self.policy)
        features = self.store.features_of(queries)
        item_ids = [query.candidates.item_ids for query in queries]
        if self.mixture is not None:
            matrices = np.split(features, np.cumsum([len(ids) for ids in item_ids], dtype=np.int64)[:-1])
            drawn = [self.mixture.draw(*each) for each in zip(queries, matrices, relevant_lists(targets), strict=True)]
            item_ids = [ids for ids, _ in drawn]
            features = np.concatenate([features[:0], *(matrix for _, matrix in drawn)])
        candidates = np.concatenate([*item_ids, NO_IDS])
        groups = np.asarray([len(ids) for ids in item_ids], np.int64)
        labels, ratings = label(candidates, groups, targets)
        return Samples(
            features,
            labels,
            groups,
            targets.relevant.counts,
            targets.warm,
            self.store.catalogue.rows(candidates).astype(np.int32),
            ratings,
            SampleHistories.of(self.store.catalogue, queries),
        )


def collect(snapshot: Snapshot, channels: Sequence[Channel], targets: Targets, *, policy: ServingPolicy) -> Samples:
    """All samples of `targets`, made with channels trained at the snapshot's cut-off and queried as `policy` says.

    Features and recall see the snapshot only, so nothing after the cut-off but the label reaches a sample.
    """
    return Collector(feature_store(snapshot, policy), channels, policy).samples(targets)


def label(item_ids: Ids, groups: NDArray[np.int64], targets: Targets) -> tuple[NDArray[np.int8], Scores]:
    """int8[n] and float32[n]: whether each candidate is relevant to its request, and what the user then gave it."""
    labels = np.zeros(len(item_ids), np.int8)
    ratings = np.full(len(item_ids), np.nan, np.float32)
    bounds, wanted = np.concatenate([[0], np.cumsum(groups)]), targets.relevant.indptr
    for request in range(len(groups)):
        relevant = targets.relevant.item_ids[wanted[request] : wanted[request + 1]]
        rows = slice(bounds[request], bounds[request + 1])
        positions = np.searchsorted(relevant, item_ids[rows])
        found = relevant[np.minimum(positions, len(relevant) - 1)] == item_ids[rows]
        labels[rows] = found
        if targets.values is not None:
            ratings[rows][found] = targets.values[wanted[request] : wanted[request + 1]][positions[found]]
    return labels, ratings


def feature_store(snapshot: Snapshot, policy: ServingPolicy, *, rating: RatingModel | None = None) -> FeatureStore:
    """The features at the snapshot's cut-off, with columns for the channels of `policy` and for `rating`."""
    events = snapshot.events
    return FeatureStore.build(
        snapshot.catalogue,
        ItemEvents(events.item_rows, events.timestamps, events.values, events.user_rows),
        cutoff=snapshot.cutoff,
        channels=[channel.name for channel in policy.channels],
        rating=rating,
    )


def save_features(snapshot: Snapshot, policy: ServingPolicy, folder: Path, *, rating: Path | None) -> None:
    """Writes the arrays of `feature_store`; `rating` is the folder of a rating model, where features read one."""
    model = None if rating is None else RatingModel.open(rating)
    feature_store(snapshot, policy, rating=model).save(folder)


def record_queries(
    known: Snapshot | FeatureStore, channels: Sequence[Channel], targets: Targets, *, policy: ServingPolicy
) -> list[RankQuery]:
    """What the ranker would be asked, request by request, candidates best blended first; items are those of `known`."""
    recorder = RecordingSource()
    pipeline = Pipeline(
        known.catalogue,
        policy.model_copy(update={"ranking": "ranked"}),
        [ChannelSource(channel) for channel in channels],
        recorder,
        no_fallback(known.catalogue),
    )
    run_pipeline(pipeline, targets.requests, title="recall")
    return recorder.queries


def relevant_lists(targets: Targets) -> list[Ids]:
    """The relevant ids of each request."""
    return np.split(targets.relevant.item_ids, targets.relevant.indptr[1:-1])
