"""Training samples are recall's real output, with the features that serving computes, labelled by the future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from offline.interactions import Dataset, Interactions
from offline.samples import Samples, collect, feature_store, record_queries, relevant_lists
from offline.splits import Window
from offline.targets import targets_of
from tests.offline.tastes import DAY, NoiseChannel, TasteChannel, dataset_of_tastes, policy_of

WINDOW = Window(50 * DAY, 80 * DAY)


def collected(dataset: Dataset) -> Samples:
    snapshot = dataset.snapshot(WINDOW.cutoff)
    targets = targets_of("all", dataset, snapshot, WINDOW)
    channels = [NoiseChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    return collect(snapshot, channels, targets, policy=policy_of())


def test_a_sample_is_what_the_ranker_would_be_asked() -> None:
    dataset = dataset_of_tastes()
    snapshot = dataset.snapshot(WINDOW.cutoff)
    targets = targets_of("all", dataset, snapshot, WINDOW)
    channels = [NoiseChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    queries = record_queries(snapshot, channels, targets, policy=policy_of())
    samples = collected(dataset)
    store = feature_store(snapshot, policy_of())
    assert samples.groups.tolist() == [len(query.candidates) for query in queries]
    assert max(samples.groups) == policy_of().rank_count
    starts = np.cumsum(samples.groups) - samples.groups
    for place in (0, 17, len(queries) - 1):
        rows = slice(starts[place], starts[place] + samples.groups[place])
        query, relevant = queries[place], relevant_lists(targets)[place]
        assert samples.features[rows].tobytes() == store.features(query).tobytes()
        assert query.candidates.item_ids[samples.labels[rows] == 1].tolist() == [
            item for item in query.candidates.item_ids if item in relevant
        ]
        assert not np.isin(query.candidates.item_ids, query.history.item_ids).any()
        assert query.as_of == WINDOW.cutoff


def test_the_future_beyond_the_window_reaches_nothing() -> None:
    """Absurd ratings and items after the window: every feature, candidate and label stays."""
    dataset = dataset_of_tastes()
    events = dataset.interactions.until(WINDOW.until)
    n = 50
    absurd = Interactions(
        np.concatenate([events.user_ids, np.full(n, 1)]),
        np.concatenate([events.item_ids, np.full(n, 60)]),
        np.concatenate([events.timestamps, np.full(n, WINDOW.until + 1)]),
        np.concatenate([events.types, np.ones(n, np.int8)]),
        np.concatenate([events.values, np.full(n, 1e6, np.float32)]),
    )
    late = dataset.items.available_from.copy()
    before = collected(replace(dataset, interactions=events))
    after = collected(replace(dataset, interactions=absurd, items=replace(dataset.items, available_from=late)))
    for name in ("features", "labels", "groups", "relevant_counts"):
        assert getattr(before, name).tobytes() == getattr(after, name).tobytes(), name


def test_the_window_itself_reaches_labels_only() -> None:
    dataset = dataset_of_tastes()
    shuffled = replace(dataset.interactions, item_ids=dataset.interactions.item_ids.copy())
    later = shuffled.timestamps > WINDOW.cutoff
    shuffled.item_ids[later] = 61 - shuffled.item_ids[later]
    before, after = collected(dataset), collected(replace(dataset, interactions=shuffled))
    assert before.features.tobytes() == after.features.tobytes()
    assert before.labels.tobytes() != after.labels.tobytes()


def test_what_is_saved_is_what_opens(tmp_path: Path) -> None:
    samples = collected(dataset_of_tastes())
    samples.save(tmp_path)
    opened = Samples.open(tmp_path)
    for name in ("features", "labels", "groups", "relevant_counts", "warm"):
        assert np.array_equal(getattr(opened, name), getattr(samples, name)), name
