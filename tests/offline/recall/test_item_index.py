"""The index of item vectors: what it preserves, what it must reach, and which channels get one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from offline.dataset.interactions import Snapshot
from offline.recall import als, content, item_index
from offline.recall.als import ALSConfig
from offline.recall.content import ContentConfig
from offline.recall.item_index import (
    ItemIndexConfig,
    build_graph,
    build_index,
    histories_of,
    index_channel,
    metric_of_users,
    of_one_length,
    widen_until_exact,
)
from recall_server.channels.als import ALSChannel
from recall_server.channels.content import ContentChannel
from recall_server.channels.linear import LinearChannel
from recall_server.channels.nearest import EXACT_ROWS, ItemIndex, index_files
from recsys.domain import ItemFilter, RecallQuery
from recsys.errors import BundleMismatch, ContractBroken
from tests.recall_server.indexes import clustered, without_index
from tests.recall_server.toy import NOW, Event, snapshot_of

QUICK = ItemIndexConfig(hnsw_m=8, hnsw_ef_construction=60)


def test_one_length_changes_no_inner_product() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    longer = of_one_length(vectors)
    assert_array_equal(longer[:, :4], vectors)
    assert_allclose(np.linalg.norm(longer, axis=1), np.linalg.norm(vectors, axis=1).max(), rtol=1e-6)


@pytest.mark.parametrize("directions", [0, 1, 3, 8])
def test_the_metric_of_users_changes_no_inner_product(directions: int) -> None:
    """Also for users of no direction at all, or of fewer than there are dimensions."""
    rng = np.random.default_rng(directions)
    users = (rng.normal(size=(50, directions)) @ rng.normal(size=(directions, 8))).astype(np.float32)
    items, others = rng.normal(size=(2, 20, 8)).astype(np.float32)
    to_index, query_map = metric_of_users(users)
    assert_allclose((others @ query_map) @ (items @ to_index).T, others @ items.T, atol=1e-3)


def test_users_of_few_directions_are_led_to_their_items() -> None:
    """In the plain metric a search of the same width misses a tenth of what the metric of the users finds."""
    rng = np.random.default_rng(0)
    items, users = rng.normal(size=(12_000, 48)).astype(np.float32), rng.normal(size=(100, 48)).astype(np.float32)
    users[:, 4:] *= 0.02
    to_index, query_map = metric_of_users(users)
    rows = np.arange(len(items))
    recalls = []
    for placed, mapped in (
        (of_one_length(items), np.eye(48, dtype=np.float32)),
        (of_one_length(items @ to_index), query_map),
    ):
        index = ItemIndex(build_graph(placed, rows, QUICK, seed=1), placed.shape[1], len(rows), 512, mapped)
        recalls.append(item_index._recall(index, items, rows, users))
    assert recalls[1] >= 0.99
    assert recalls[0] <= 0.9


def test_the_index_reaches_its_recall_or_is_refused() -> None:
    rng = np.random.default_rng(0)
    items = (rng.normal(size=(2_000, 8)) * rng.lognormal(size=(2_000, 1))).astype(np.float32)
    users, rows = rng.normal(size=(30, 8)).astype(np.float32), np.arange(2_000)
    built = build_index(items, rows, users, ItemIndexConfig(), seed=1)
    assert built.facts.ef >= 512
    assert built.facts.recall_at_100 >= 0.99
    assert (built.facts.index.dim, built.facts.index.count) == (9, 2_000)
    of_others = build_graph(of_one_length(items[::-1]), rows, ItemIndexConfig(), seed=1)
    wrong = ItemIndex(of_others, 9, 2_000, 512, np.eye(8, dtype=np.float32))
    with pytest.raises(ContractBroken, match=r"recall@100 is 0\.\d+ at ef 1152, expected 0.99"):
        widen_until_exact(replace(wrong, count=1_000), items, rows, users, 0.99)


def test_the_index_is_the_same_in_however_many_parts_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = of_one_length(np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32))
    built = []
    for at_once in (1_000, 300, 7, 1):
        monkeypatch.setattr(item_index, "_AT_ONCE", at_once)
        build_graph(items, np.arange(300), QUICK, seed=1).save_index(str(tmp_path / "index.hnsw"))
        built.append((tmp_path / "index.hnsw").read_bytes())
    assert built == [built[0]] * 4


ITEMS = EXACT_ROWS + 2_000
"""Of which 500 have no vector."""


@pytest.fixture(scope="module")
def large() -> Snapshot:
    """`ITEMS` items; each of 60 users has rated 20 of them."""
    rng = np.random.default_rng(0)
    events: list[Event] = [
        (user, int(item), float(age), 4.0)
        for user in range(60)
        for age, item in enumerate(rng.choice(ITEMS - 500, 20, replace=False) + 1)
    ]
    return snapshot_of(events, {item: "Drama" if item % 3 else "Western" for item in range(1, ITEMS + 1)})


def channel_of(name: str, snapshot: Snapshot, folder: Path, *, items: int = ITEMS - 500) -> LinearChannel:
    """A channel with clustered vectors for the first `items`, and the index that its trainer gives it."""
    vectors = np.zeros((ITEMS, 24), np.float32)
    vectors[:items] = clustered(np.random.default_rng(1), items=items, users=1, dim=24)[0]
    snapshot.catalogue.save(folder)
    (folder / name).mkdir()
    if name == "content":
        vectors[:items] /= np.linalg.norm(vectors[:items], axis=1, keepdims=True)
        facts = content.ContentFacts(items=ITEMS, dim=24, value_scale=SCALE, half_life_days=None)
        np.save(folder / content.VECTORS_FILE, vectors)
        (folder / content.FACTS_FILE).write_text(facts.model_dump_json())
        index_channel(
            ContentChannel.open(folder),
            histories_of(snapshot),
            ContentConfig(hnsw_m=16, hnsw_ef_construction=100),
            folder,
            seed=1,
        )
        return ContentChannel.open(folder)
    factors = als.ALSFacts(items=ITEMS, factors=24, confidence=20, value_scale=SCALE, half_life_days=None)
    np.save(folder / als.FACTORS_FILE, vectors)
    np.save(folder / als.GRAM_FILE, vectors.T.astype(np.float64) @ vectors / 100 + np.eye(24))
    (folder / als.FACTS_FILE).write_text(factors.model_dump_json())
    index_channel(
        ALSChannel.open(folder), histories_of(snapshot), ALSConfig(hnsw_m=16, hnsw_ef_construction=100), folder, seed=1
    )
    return ALSChannel.open(folder)


SCALE = als.ValueScale(low=1, high=5, floor=0.1)


@pytest.fixture(scope="module", params=["als", "content"])
def indexed(request: pytest.FixtureRequest, large: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a channel that has an index; nobody may write here."""
    folder = tmp_path_factory.mktemp(request.param)
    channel_of(request.param, large, folder)
    return folder


def opened(folder: Path) -> LinearChannel:
    """The channel of `indexed`."""
    return (ALSChannel if (folder / als.FACTS_FILE).is_file() else ContentChannel).open(folder)


def test_a_large_catalogue_is_searched_by_an_index_that_finds_what_a_scan_finds(indexed: Path, large: Snapshot) -> None:
    channel = opened(indexed)
    assert channel.nearest.index is not None
    assert channel.nearest.index.count == ITEMS - 500
    histories = [large.history(user) for user in range(60)]
    queries = [RecallQuery(history, NOW, 100, history.seen_item_ids()) for history in histories]
    queries += [replace(query, item_filter=ItemFilter(genres_any=("Drama",))) for query in queries[:5]]
    found, expected = channel.recall(queries), without_index(channel).recall(queries)
    shares = [np.isin(exact.item_ids, answer.item_ids).mean() for answer, exact in zip(found, expected, strict=True)]
    assert np.mean(shares) >= 0.98
    assert all(len(answer) == 100 for answer in found)
    for answer, query in zip(found, queries, strict=True):
        assert not np.isin(answer.item_ids, query.exclude_item_ids).any()


@pytest.mark.parametrize("name", ["als", "content"])
def test_a_catalogue_that_is_scanned_as_quickly_has_no_index(name: str, large: Snapshot, tmp_path: Path) -> None:
    channel = channel_of(name, large, tmp_path, items=EXACT_ROWS)
    assert channel.nearest.index is None
    assert not any((tmp_path / file).exists() for file in index_files(name))


def test_a_channel_whose_index_would_not_do_is_scanned(
    large: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(item_index, "_recall", lambda *_: 0.5)
    monkeypatch.setattr(item_index, "_M_FACTORS", (1,))
    channel = channel_of("content", large, tmp_path)
    assert channel.nearest.index is None
    assert not any((tmp_path / file).exists() for file in index_files("content"))
    assert f"without an index, every request scans {ITEMS - 500} items" in caplog.text


def test_an_index_over_other_vectors_is_refused(indexed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(indexed, tmp_path / "copy"))
    path = next(folder / file for file in (als.FACTORS_FILE, content.VECTORS_FILE) if (folder / file).is_file())
    np.save(path, 2 * np.load(path))
    with pytest.raises(BundleMismatch, match=r"/index.hnsw: its distances are not those of the item vectors"):
        opened(folder)
