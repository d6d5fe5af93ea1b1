"""Negatives are of three kinds, never relevant, never seen, and the same whatever else is drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline.dataset.splits import Window
from offline.protocols.targets import Targets, targets_of
from offline.ranking.samples import (
    Collector,
    Samples,
    SamplesConfig,
    blocks_of,
    feature_store,
    record_queries,
    relevant_lists,
)
from recsys.bundle import ChannelPolicy, ServingPolicy
from recsys.features.crosses import NOT_RETURNED_RANK
from tests.offline.tastes import DAY, NoiseChannel, TasteChannel, dataset_of_tastes

WINDOW = Window(50 * DAY, 80 * DAY)
DATASET = dataset_of_tastes()
SNAPSHOT = DATASET.snapshot(WINDOW.cutoff)
POLICY = ServingPolicy(
    channels=tuple(ChannelPolicy(name=name, count=20, weight=1.0) for name in ("noise", "taste")),
    rank_count=25,
    ranking="ranked",
    serving_clock="cutoff",
)
STORE = feature_store(SNAPSHOT, POLICY)
ASKED = targets_of("all", DATASET, SNAPSHOT, WINDOW)
TARGETS = replace(ASKED, requests=[replace(request, count=10) for request in ASKED.requests])
"""Recall returns less than half of the items."""
CHANNELS = [NoiseChannel(SNAPSHOT.catalogue), TasteChannel(SNAPSHOT.catalogue)]


def mixed(targets: Targets = TARGETS, **settings: float) -> Samples:
    config = SamplesConfig(candidates="mixed", negatives=3).model_copy(update=settings)
    return Collector.of(STORE, CHANNELS, POLICY, config).samples(targets)


def parts(samples: Samples) -> list[slice]:
    ends = np.cumsum(samples.groups)
    return [slice(end - n, end) for end, n in zip(ends, samples.groups, strict=True)]


def test_kinds_come_in_the_shares_that_are_asked_for() -> None:
    queries = record_queries(SNAPSHOT, CHANNELS, TARGETS, policy=POLICY)
    samples = mixed(negatives=5, hard_share=0.6, popular_share=0.2)
    best = STORE.feature_names.index("best_rank")
    for rows, query, relevant in zip(parts(samples), queries, relevant_lists(TARGETS), strict=True):
        ids = SNAPSHOT.catalogue.item_ids[samples.item_rows[rows]]
        positives = int(samples.labels[rows].sum())
        assert positives == np.isin(query.candidates.item_ids, relevant).sum()
        recalled = np.isin(ids, query.candidates.item_ids)
        assert recalled.sum() == positives + 3 * max(positives, 1)
        assert (~recalled).sum() == 2 * max(positives, 1)
        assert len(np.unique(ids)) == len(ids)
        assert not np.isin(ids[~recalled], [*relevant, *query.history.item_ids]).any()
        assert (samples.features[rows][~recalled, best] == NOT_RETURNED_RANK).all()
        assert np.array_equal(ids[recalled], query.candidates.item_ids[np.isin(query.candidates.item_ids, ids)])


def test_nine_negatives_per_relevant_candidate_unless_told() -> None:
    """With more than two relevant candidates this small world has too few others."""
    samples = Collector.of(STORE, CHANNELS, POLICY, SamplesConfig(candidates="mixed")).samples(TARGETS)
    counted = set()
    for rows in parts(samples):
        positives = int(samples.labels[rows].sum())
        if positives <= 2:
            counted.add((positives, int((samples.labels[rows] == 0).sum())))
    assert counted == {(0, 9), (1, 9), (2, 18)}


def test_what_recall_returned_keeps_the_features_that_serving_computes() -> None:
    everything = Collector(STORE, CHANNELS, POLICY).samples(TARGETS)
    samples = mixed()
    for rows, full in zip(parts(samples), parts(everything), strict=True):
        of_row = dict(zip(everything.item_rows[full].tolist(), everything.features[full], strict=True))
        for row, features in zip(samples.item_rows[rows].tolist(), samples.features[rows], strict=True):
            if row in of_row:
                assert features.tobytes() == of_row[row].tobytes()


def test_a_request_draws_alike_among_others_and_alone() -> None:
    whole = mixed()
    alone = [mixed(block) for block in blocks_of(TARGETS, 7)]
    assert np.concatenate([part.item_rows for part in alone]).tobytes() == whole.item_rows.tobytes()
    assert np.concatenate([part.features for part in alone]).tobytes() == whole.features.tobytes()
    assert mixed(seed=2).item_rows.tobytes() != whole.item_rows.tobytes()


def test_popular_items_are_drawn_more_often() -> None:
    counts = np.bincount(SNAPSHOT.events.item_rows, minlength=len(SNAPSHOT.catalogue))
    drawn = [mixed(hard_share=0.0, popular_share=share) for share in (1.0, 0.0)]
    popular, uniform = (counts[samples.item_rows[samples.labels == 0]].mean() for samples in drawn)
    assert popular > uniform + 0.2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_too_few_items_are_all_taken(share: float) -> None:
    samples = mixed(negatives=500, hard_share=share, popular_share=1.0 - share)
    assert (np.diff(np.flatnonzero(samples.groups)) == 1).all()
    assert samples.groups.max() <= len(SNAPSHOT.catalogue)
