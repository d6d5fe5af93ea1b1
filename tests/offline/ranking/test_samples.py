"""Training samples are recall's real output, with the features that serving computes, labelled by the future."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from gateway.pipeline.merge import merge
from offline.dataset.interactions import Dataset, Interactions, Items
from offline.dataset.splits import Window
from offline.protocols.targets import targets_of
from offline.ranking.samples import (
    ARRAYS,
    HISTORY_ARRAYS,
    HISTORY_LENGTH,
    SampleHistories,
    Samples,
    collect,
    feature_store,
    record_queries,
    relevant_lists,
)
from recsys.domain import History, RankQuery
from tests.offline.tastes import DAY, ITEMS, NoiseChannel, TasteChannel, dataset_of_tastes, policy_of

WINDOW = Window(50 * DAY, 80 * DAY)


def collected(dataset: Dataset) -> Samples:
    snapshot = dataset.snapshot(WINDOW.cutoff)
    targets = targets_of("all", dataset, snapshot, WINDOW)
    channels = [NoiseChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    return collect(snapshot, channels, targets, policy=policy_of())


def with_absurd_item(items: Items) -> Items:
    """The items and one more, which appears after the window."""
    new = items.take(items.item_ids == ITEMS)
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(items, field.name), getattr(new, field.name)])
        for field in fields(items)
        if field.name not in ("genre_names", "people")
    }
    columns["item_ids"][-1], columns["available_from"][-1] = ITEMS + 1, WINDOW.until + 1
    return replace(items, **columns)


def test_a_sample_is_what_the_ranker_would_be_asked() -> None:
    dataset = dataset_of_tastes()
    snapshot = dataset.snapshot(WINDOW.cutoff)
    targets = targets_of("all", dataset, snapshot, WINDOW)
    channels = [NoiseChannel(snapshot.catalogue), TasteChannel(snapshot.catalogue)]
    queries = record_queries(snapshot, channels, targets, policy=policy_of())
    samples = collected(dataset)
    store = feature_store(snapshot, policy_of())
    assert samples.groups.tolist() == [len(query.candidates) for query in queries]
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
        assert samples.item_rows[rows].tolist() == snapshot.catalogue.rows(query.candidates.item_ids).tolist()
        events = slice(samples.histories.indptr[place], samples.histories.indptr[place + 1])
        assert samples.histories.rows[events].tolist() == snapshot.catalogue.rows(query.history.item_ids).tolist()
        assert samples.histories.values[events].tolist() == query.history.values.tolist()
        assert samples.histories.ages[events].tolist() == (WINDOW.cutoff - query.history.timestamps).tolist()


def test_ratings_are_those_given_in_the_window() -> None:
    dataset = dataset_of_tastes()
    samples = collected(dataset)
    later = dataset.interactions.between(WINDOW.cutoff, WINDOW.until)
    given = dict(zip(zip(later.user_ids.tolist(), later.item_ids.tolist(), strict=True), later.values, strict=True))
    users = targets_of("all", dataset, dataset.snapshot(WINDOW.cutoff), WINDOW).user_ids
    item_ids = dataset.snapshot(WINDOW.cutoff).catalogue.item_ids[samples.item_rows]
    pairs = zip(np.repeat(users, samples.groups).tolist(), item_ids.tolist(), strict=True)
    expected = [given.get(pair, np.nan) for pair in pairs]
    assert np.array_equal(samples.ratings, np.asarray(expected, np.float32), equal_nan=True)
    assert np.array_equal(np.isfinite(samples.ratings), samples.labels == 1)


def test_histories_keep_the_latest_known_events() -> None:
    catalogue = dataset_of_tastes().snapshot(WINDOW.until).catalogue
    n = HISTORY_LENGTH + 5
    long = History.of(np.arange(n) % 60 + 1, np.arange(n))
    strange = History.of([1, 999, 2], [5, 6, 9], values=[3, 1, np.nan])
    queries = [RankQuery(history, 7, merge({})) for history in (long, History.empty(), strange)]
    found = SampleHistories.of(catalogue, queries)
    assert found.indptr.tolist() == [0, HISTORY_LENGTH, HISTORY_LENGTH, HISTORY_LENGTH + 2]
    assert found.rows[:HISTORY_LENGTH].tolist() == (np.arange(5, n) % 60).tolist()
    assert found.rows[-2:].tolist() == [0, 1]
    assert found.ages[-2:].tolist() == [2, 0]
    assert np.array_equal(found.values[-2:], [3, np.nan], equal_nan=True)


def test_the_future_beyond_the_window_reaches_nothing() -> None:
    """Absurd ratings, of a known and of a new item, after the window: every feature, candidate and label stays."""
    dataset = dataset_of_tastes()
    events = dataset.interactions.until(WINDOW.until)
    n = 50
    absurd = Interactions(
        np.concatenate([events.user_ids, np.full(n, 1)]),
        np.concatenate([events.item_ids, np.resize([ITEMS, ITEMS + 1], n)]),
        np.concatenate([events.timestamps, np.full(n, WINDOW.until + 1)]),
        np.concatenate([events.types, np.ones(n, np.int8)]),
        np.concatenate([events.values, np.full(n, 1e6, np.float32)]),
    )
    before = collected(replace(dataset, interactions=events))
    after = collected(replace(dataset, interactions=absurd, items=with_absurd_item(dataset.items)))
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
    for name in ARRAYS:
        assert isinstance(getattr(opened, name), np.memmap), name
        assert getattr(opened, name).tobytes() == getattr(samples, name).tobytes(), name
    for name in HISTORY_ARRAYS:
        assert getattr(opened.histories, name).tobytes() == getattr(samples.histories, name).tobytes(), name
