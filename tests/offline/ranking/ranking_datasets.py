"""What rankers learn from in tests: samples of the data set of tastes, at two earlier cut-offs and on validation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from offline.dataset.splits import Window
from offline.protocols.targets import targets_of
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankingDataset
from offline.ranking.samples import collect, feature_store, record_queries
from rank_server.scoring import Ranker
from recsys.domain import RankQuery
from tests.offline.tastes import DAY, NoiseChannel, TasteChannel, dataset_of_tastes, policy_of

T1, T2 = 70 * DAY, 85 * DAY
DATASET = dataset_of_tastes()
NAMES = feature_store(DATASET.snapshot(T1), policy_of()).feature_names


@dataclass(frozen=True)
class RankingData:
    """Two windows to learn from, and one to validate on."""

    dataset: RankingDataset
    held_out: LabelledWindow


@cache
def ranking_data() -> RankingData:
    """Made once for all tests, which change copies only."""
    early, late, held = (_window(Window(*days)) for days in ((40 * DAY, T1), (55 * DAY, T1), (T1, T2)))
    return RankingData(RankingDataset((early, late), held.item_ids, NAMES), held)


def _window(span: Window) -> LabelledWindow:
    snapshot = DATASET.snapshot(span.cutoff)
    channels = [NoiseChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    labelled = targets_of("all", DATASET, snapshot, span)
    return LabelledWindow(collect(snapshot, channels, labelled, policy=policy_of()), snapshot.catalogue.item_ids)


@cache
def queries() -> list[RankQuery]:
    """What the ranker is asked on validation, in the order of the held-out samples."""
    snapshot = DATASET.snapshot(T1)
    channels = [NoiseChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    return record_queries(snapshot, channels, targets_of("all", DATASET, snapshot, Window(T1, T2)), policy=policy_of())


def served(folder: Path) -> Ranker:
    """The ranker whose graph is below `folder`, next to the features of validation's cut-off."""
    snapshot = DATASET.snapshot(T1)
    snapshot.catalogue.save(folder)
    feature_store(snapshot, policy_of()).save(folder)
    return Ranker.open(folder)
