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
from recsys.catalogue import Catalogue
from recsys.domain import NO_IDS, Ids, RankQuery, Scores
from recsys.features import FeatureStore, ItemEvents

ARRAYS = ("features", "labels", "groups", "relevant_counts", "warm", "item_rows", "ratings")
HISTORY_ARRAYS = ("indptr", "rows", "values", "ages")
HISTORY_LENGTH = 200
"""Latest events of a request's history that are kept beside its candidates."""

_NO_EVENTS = (np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32))


class SamplesConfig(BaseModel):
    """Which requests become training data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_users: int = Field(default=1_500, ge=1, description="most users per window, drawn with the seed")


@dataclass(frozen=True, slots=True)
class SampleHistories:
    """The last `HISTORY_LENGTH` known events of each request, oldest first, as the graph menu's `history_*` has them.

    Those of request i are at indptr[i]:indptr[i + 1].
    """

    indptr: NDArray[np.int64]
    """int64[requests + 1]."""
    rows: NDArray[np.int32]
    """int32[events]: catalogue rows."""
    values: NDArray[np.float32]
    """float32[events]: rating or weight, NaN where the event has none."""
    ages: NDArray[np.float32]
    """float32[events]: seconds from the event to the request's `as_of`, never negative."""

    @classmethod
    def of(cls, catalogue: Catalogue, queries: Sequence[RankQuery]) -> SampleHistories:
        """The histories of `queries`; unknown items are left out."""
        parts = [*(_known_history(catalogue, query) for query in queries), _NO_EVENTS]
        lengths = [len(rows) for rows, _, _ in parts[:-1]]
        rows, values, ages = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(np.cumsum([0, *lengths], dtype=np.int64), rows, values, ages)


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
    item_rows: NDArray[np.int32]
    """int32[n]: catalogue rows of the candidates."""
    ratings: NDArray[np.float32]
    """float32[n]: the rating or weight that the user later gave; NaN where there is none or the label is 0."""
    histories: SampleHistories

    def save(self, folder: Path) -> None:
        """Writes one .npy file per array."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        for name in HISTORY_ARRAYS:
            np.save(folder / f"history_{name}.npy", getattr(self.histories, name))

    @classmethod
    def open(cls, folder: Path) -> Samples:
        """Memory-maps what `save` wrote."""
        names = (*ARRAYS, *(f"history_{name}" for name in HISTORY_ARRAYS))
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names]
        histories = SampleHistories(*arrays[len(ARRAYS) :])
        return cls(*[*arrays[: len(ARRAYS)], histories])


def collect(snapshot: Snapshot, channels: Sequence[Channel], targets: Targets, *, policy: ServingPolicy) -> Samples:
    """Samples of `targets`, made with channels trained at the snapshot's cut-off and asked as `policy` says.

    `FeatureStore` and recall see the snapshot only, so nothing after the cut-off but the label reaches a sample.
    """
    store = feature_store(snapshot, policy)
    queries = record_queries(snapshot, channels, targets, policy=policy)
    features = [store.features(query) for query in tqdm(queries, desc="features", unit="request", leave=False)]
    item_ids = np.concatenate([*(query.candidates.item_ids for query in queries), NO_IDS])
    groups = np.asarray([len(query.candidates) for query in queries], np.int64)
    labels, ratings = label(item_ids, groups, targets)
    return Samples(
        np.concatenate([*features, np.empty((0, len(store.feature_names)), np.float32)]),
        labels,
        groups,
        targets.relevant.counts,
        targets.warm,
        snapshot.catalogue.rows(item_ids).astype(np.int32),
        ratings,
        SampleHistories.of(snapshot.catalogue, queries),
    )


def label(item_ids: Ids, groups: NDArray[np.int64], targets: Targets) -> tuple[NDArray[np.int8], Scores]:
    """int8[n] and float32[n]: whether each candidate is relevant to its request, and what the user then gave it."""
    labels = np.zeros(len(item_ids), np.int8)
    ratings = np.full(len(item_ids), np.nan, np.float32)
    bounds, wanted = np.concatenate([[0], np.cumsum(groups)]), targets.relevant.indptr
    for request in range(len(groups)):
        relevant = targets.relevant.item_ids[wanted[request] : wanted[request + 1]]
        rows = slice(bounds[request], bounds[request + 1])
        places = np.searchsorted(relevant, item_ids[rows])
        found = relevant[np.minimum(places, len(relevant) - 1)] == item_ids[rows]
        labels[rows] = found
        if targets.values is not None:
            ratings[rows][found] = targets.values[wanted[request] : wanted[request + 1]][places[found]]
    return labels, ratings


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


def _known_history(catalogue: Catalogue, query: RankQuery) -> tuple[NDArray[np.int32], Scores, Scores]:
    """Rows, values and ages of the last known events of a query."""
    rows = catalogue.rows(query.history.item_ids)
    kept = np.flatnonzero(rows >= 0)[-HISTORY_LENGTH:]
    ages = np.maximum(query.as_of - query.history.timestamps[kept], 0)
    return rows[kept].astype(np.int32), query.history.values[kept], ages.astype(np.float32)


def relevant_lists(targets: Targets) -> list[Ids]:
    """The relevant ids of each request."""
    return np.split(targets.relevant.item_ids, targets.relevant.indptr[1:-1])
