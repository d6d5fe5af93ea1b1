"""Training/serving skew: the features a running rank server computes, against those that training code computes.

The requests are real ones: histories that the bundle stores, or those of the latest answers of a running gateway, go
through the serving pipeline in this process, and what it would ask the ranker is asked of the server, feature matrix
included. Two parties answer the same in this process:

bundle     the arrays of the bundle on disk: the server holds other files, or other software
training   arrays computed afresh from the tables, as for training samples: what was published is not what was learned
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gateway.bundle.state import StoredHistories
from gateway.pipeline.fallback import Fallback
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from offline.dataset.interactions import Dataset
from offline.dataset.splits import split
from offline.ingest.report import REPORT, IngestReport
from offline.publish.publish import INDEX_FILE
from offline.ranking.in_process import ChannelSource, RecordingSource, run_pipeline
from offline.ranking.samples import feature_store
from offline.workflow.config import OfflineConfig
from recall_server.channels.registry import open_channels
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import Floats32, History, RankQuery
from recsys.errors import BundleMismatch, ContractBroken
from recsys.features import FeatureStore
from recsys.features.rating import RatingModel
from recsys.features.selection import RATING_NAME

log = logging.getLogger(__name__)

COUNT = 10
"""Items a request asks for; the ranker is asked about as many candidates as the policy says."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where one feature differs most."""

    name: str
    amount: float
    """Divided by the expected value where that exceeds 1; infinite where the server's value is not finite."""
    served: float
    expected: float
    user_id: int | None
    item_id: int

    def __str__(self) -> str:
        """One line: which feature, what was found where, and what was expected."""
        user = "a user without a history" if self.user_id is None else f"user {self.user_id}"
        return f"{self.name}: {self.served:g} served, {self.expected:g} expected ({user}, item {self.item_id})"


def drawn_requests(bundle: Bundle, n: int, seed: int) -> list[Request]:
    """Requests of `n` users drawn from the stored histories, at the bundle's cut-off."""
    histories, moment = StoredHistories.open(bundle.folder), bundle.manifest.cutoff
    drawn = np.random.default_rng(seed).choice(histories.user_ids, min(n, len(histories.user_ids)), replace=False)
    return [Request(histories.of(user), moment, COUNT, user_id=user) for user in sorted(drawn.tolist())]


def record_queries(bundle: Bundle, requests: Sequence[Request]) -> list[RankQuery]:
    """What the ranker would be asked for these requests, and for a user without a history.

    The latter asks at the bundle's cut-off and names a genre, so that stated taste is checked as well.
    """
    folder, policy, moment = bundle.folder, bundle.manifest.policy, bundle.manifest.cutoff
    catalogue = Catalogue.load(folder)
    cold = Request(History.empty(), moment, COUNT, preferred_genres=catalogue.genre_names[:1])
    recorder = RecordingSource()
    pipeline = Pipeline(
        catalogue,
        policy.model_copy(update={"ranking": "ranked"}),
        [ChannelSource(channel) for channel in open_channels(policy, folder)],
        recorder,
        Fallback.open(folder, catalogue),
    )
    run_pipeline(pipeline, [*requests, cold], title="recall")
    return recorder.queries


def training_store(bundle: Bundle, config: OfflineConfig) -> FeatureStore | None:
    """The features as training computes them, from the tables up to the bundle's cut-off.

    None where there are no tables on this machine, or they hold other recorded events than the bundle, or the bundle
    was indexed with items that came later. Tables are never made here; the rating model is the bundle's. Raises
    BundleMismatch where they have other items at the cut-off.
    """
    manifest = bundle.manifest
    if not (config.tables / REPORT).is_file():
        log.warning("%s: no tables there; compared with the bundle's files only", config.tables)
        return None
    watermarks = dict(IngestReport.load(config.tables).events_watermarks)
    if watermarks != manifest.events_watermarks:
        log.warning(
            "%s: holds recorded events up to rows %s, bundle %s up to %s; compared with the bundle's files only",
            config.tables,
            watermarks,
            bundle.version,
            manifest.events_watermarks,
        )
        return None
    if bundle.has(INDEX_FILE):
        log.warning("bundle %s has items that no training saw; compared with the bundle's files only", bundle.version)
        return None
    dataset = split(Dataset.load(config.dataset, config.tables), config.split).dataset
    snapshot = dataset.snapshot(manifest.cutoff)
    if not np.array_equal(snapshot.catalogue.item_ids, Catalogue.load(bundle.folder).item_ids):
        raise BundleMismatch(
            f"{config.tables}: {len(snapshot.catalogue)} items at the cut-off {manifest.cutoff}, not those of bundle "
            f"{bundle.version}: the tables were made again, or --split differs; train and publish again"
        )
    rated = RATING_NAME in manifest.feature_names
    rating = RatingModel.open(bundle.folder) if rated else None
    return feature_store(snapshot, manifest.policy, rating=rating)


def differences(
    queries: Sequence[RankQuery],
    served: Sequence[tuple[tuple[str, ...], Floats32]],
    expected: Sequence[Floats32],
    names: tuple[str, ...],
) -> list[Difference]:
    """Per feature the value that differs most, largest difference first.

    `served` has names and matrix per query, `expected` float32[candidates, len(names)]. Raises ContractBroken where
    names, their order or the number of rows differ.
    """
    for (found_names, found), wanted in zip(served, expected, strict=True):
        _check_columns(found_names, names)
        if found.shape != wanted.shape:
            raise ContractBroken(f"the rank server sent features of shape {found.shape}, expected {wanted.shape}")
    values = np.concatenate([matrix for _, matrix in served]).astype(np.float64)
    truth = np.concatenate(expected).astype(np.float64)
    with np.errstate(invalid="ignore"):
        amounts = np.abs(values - truth) / np.maximum(np.abs(truth), 1.0)
    amounts[~np.isfinite(amounts)] = np.inf
    if not len(amounts):
        raise ContractBroken("no request has a candidate: there is nothing to compare; see the recall channels")
    askers = [query.user_id for query in queries for _ in query.candidates.item_ids]
    items = np.concatenate([query.candidates.item_ids for query in queries])
    result = []
    for column, (name, row) in enumerate(zip(names, amounts.argmax(axis=0).tolist(), strict=True)):
        cell = (row, column)
        result.append(
            Difference(
                name, float(amounts[cell]), float(values[cell]), float(truth[cell]), askers[row], int(items[row])
            )
        )
    return sorted(result, key=lambda difference: -difference.amount)


def _check_columns(found: tuple[str, ...], expected: tuple[str, ...]) -> None:
    if found == expected:
        return
    for column, (name, wanted) in enumerate(zip(found, expected, strict=False)):
        if name != wanted:
            raise ContractBroken(
                f"feature column {column} of the rank server is {name!r}, training's is {wanted!r}; run the same "
                "version of the software everywhere, then train and publish again"
            )
    raise ContractBroken(f"the rank server has {len(found)} features, training {len(expected)}; publish again")
