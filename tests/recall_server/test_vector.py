"""The vector channel: contract, exact and by index, and files that do not fit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import hnswlib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from offline.recall.two_tower import TwoTowerConfig, train
from offline.recall.two_tower.config import PooledConfig
from offline.recall.two_tower.export import build_index
from recall_server.channels.base import Channel
from recall_server.channels.registry import channel_class
from recall_server.channels.vector import (
    EXACT_ROWS,
    FACTS_FILE,
    FILES,
    INDEX_FILE,
    TOWER_FILE,
    VECTORS_FILE,
    VectorChannel,
    read_facts,
)
from recsys.bundle import Bundle, FileEntry, IndexFacts, Manifest, ServingPolicy
from recsys.catalogue import Catalogue
from recsys.domain import History, ItemFilter, RecallQuery
from recsys.errors import BundleDamaged, BundleError, BundleMismatch
from tests.offline.recall.two_tower.towers import varied
from tests.recall_server.conformance import DAY, NOW, ChannelConformance, history_of
from tests.recall_server.toy import checkerboard

CONFIG = TwoTowerConfig(
    threads=1,
    device="cpu",
    pooled=PooledConfig(embedding_size=8, heads=2, hidden=16, min_examples=256, batch_size=64, epochs=4, averaging=0.5),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Towers of the checkerboard; nobody may write here."""
    folder = tmp_path_factory.mktemp("vector")
    snapshot = checkerboard(12, 16)
    snapshot.catalogue.save(folder)
    train(snapshot, CONFIG, folder)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "vector"))


class TestVectorConformance(ChannelConformance):
    @pytest.fixture
    def channel(self, trained: Path) -> Channel:
        return VectorChannel.open(trained)


class TestVectorByIndexConformance(ChannelConformance):
    @pytest.fixture
    def channel(self, trained: Path) -> Channel:
        return VectorChannel.open(trained, exact_rows=0)


def manifest_of(folder: Path, index: IndexFacts | None) -> Bundle:
    """A bundle of `folder` whose manifest describes `index`."""
    policy = ServingPolicy(channels=(), rank_count=1, ranking="blended", serving_clock="cutoff")
    manifest = Manifest(
        format_version=1,
        bundle_version="toy",
        purpose="evaluation",
        dataset="toy",
        cutoff=NOW,
        events_watermarks={},
        created="2000-01-01T00:00:00+00:00",
        software_version="0",
        feature_names=(),
        index=index,
        policy=policy,
        roles={"vector": FILES},
        files={name: FileEntry(sha256="0" * 64, bytes=0) for name in FILES},
    )
    return Bundle(folder, manifest)


def query(*item_ids: int, count: int = 5, exclude: tuple[int, ...] = ()) -> RecallQuery:
    return RecallQuery(history_of(item_ids), NOW, count, exclude_item_ids=np.asarray(exclude, np.int64))


def test_is_registered_and_reads_as_much_history_as_training_does() -> None:
    assert channel_class("vector") is VectorChannel
    limits = [rule.le for rule in TwoTowerConfig.model_fields["history_limit"].metadata if hasattr(rule, "le")]
    assert limits == [VectorChannel.history_limit] == [TwoTowerConfig().history_limit]


def test_the_score_is_the_inner_product_of_user_and_item(trained: Path) -> None:
    channel = VectorChannel.open(trained)
    [result] = channel.recall([query(1, 3, count=16)])
    [user] = channel._tower.vectors([query(1, 3)], channel.catalogue)
    items = np.load(trained / VECTORS_FILE)
    assert_allclose(result.scores, (items @ user)[channel.catalogue.rows(result.item_ids)], rtol=1e-5, atol=1e-6)


def test_the_index_answers_like_exact_search(trained: Path) -> None:
    queries = [query(*range(1 + i, 12, 2), count=4, exclude=tuple(range(1, 1 + i))) for i in range(6)]
    by_index = VectorChannel.open(trained, exact_rows=0).recall(queries)
    exact = VectorChannel.open(trained, exact=True).recall(queries)
    for found, expected in zip(by_index, exact, strict=True):
        assert found.item_ids.tolist() == expected.item_ids.tolist()
        assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)


class _Short:
    """An index that finds only the rows it is given, best first, or fails as hnswlib does."""

    def __init__(self, rows: list[int]) -> None:
        self.rows = rows
        self.asked: list[int] = []

    def knn_query(self, users: np.ndarray, k: int, num_threads: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(k)
        if k > len(self.rows):
            raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")
        return np.asarray([self.rows[:k]], np.uint64), np.zeros((1, k), np.float32)


@pytest.mark.parametrize(
    ("rows", "asked"),
    [([0, 1, 2, 3, 4, 5, 6, 7], [7]), ([0, 1, 2], [7])],
    ids=["what came back was excluded or enough", "the graph reaches too few"],
)
def test_count_is_met_whatever_the_index_returns(trained: Path, rows: list[int], asked: list[int]) -> None:
    channel = VectorChannel.open(trained, exact_rows=0)
    channel._index = index = _Short(rows)
    [found] = channel.recall([query(1, 3, count=4, exclude=(1, 2, 3))])
    assert index.asked == asked
    assert len(found) == 4
    assert not {1, 2, 3} & set(found.item_ids.tolist())
    if len(rows) < 7:
        [expected] = VectorChannel.open(trained, exact=True).recall([query(1, 3, count=4, exclude=(1, 2, 3))])
        assert found.item_ids.tolist() == expected.item_ids.tolist()


def test_few_allowed_items_are_searched_exactly(trained: Path) -> None:
    channel = VectorChannel.open(trained, exact_rows=13)
    channel._index = index = _Short(list(range(16)))
    channel.recall([query(1, count=2, exclude=(1, 2, 3))])
    assert index.asked == []
    channel.recall([query(1, count=2, exclude=(1, 2))])
    assert index.asked == [4]


MANY = EXACT_ROWS + 100
"""Items of a catalogue that is worth an index."""
WIDTH = 200
"""Of its search: a fiftieth of the items."""


class _Watched:
    """An index that remembers how many items it was asked for."""

    def __init__(self, index: hnswlib.Index) -> None:
        self.index = index
        self.asked: list[int] = []

    def knn_query(self, users: np.ndarray, k: int, num_threads: int) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(k)
        labels, distances = self.index.knn_query(users, k=k, num_threads=num_threads)
        return labels, distances


@pytest.fixture(scope="module")
def large(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`MANY` items, with vectors of one length at random: dramas, but for the last 150; the tower knows the first."""
    folder = tmp_path_factory.mktemp("large")
    shutil.copytree(trained / "vector", folder / "vector")
    ids = np.arange(1, MANY + 1, dtype=np.int64)
    drama = ids <= MANY - 150
    Catalogue(ids, np.full(MANY, 1990, np.int16), np.stack([drama, ~drama], axis=1), ("Drama", "Western")).save(folder)
    facts = read_facts(trained)
    vectors = np.random.default_rng(0).normal(size=(MANY, facts.index.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder / VECTORS_FILE, vectors)
    small = varied(CONFIG, hnsw_m=8, hnsw_ef_construction=60)
    build_index(vectors, small).save_index(str(folder / INDEX_FILE))
    described = facts.model_copy(update={"index": facts.index.model_copy(update={"count": MANY}), "ef": WIDTH})
    (folder / FACTS_FILE).write_text(described.model_dump_json(), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("asking", "asked"),
    [
        (query(1, 3, count=100), [100]),
        (query(1, 3, count=WIDTH), [WIDTH]),
        (query(1, 3, count=WIDTH + 1), []),
        (query(1, 3, count=50, exclude=tuple(range(1, 100))), [149]),
        (query(1, 3, count=50, exclude=tuple(range(1, 101))), []),
        (replace(query(1, 3, count=50), item_filter=ItemFilter(genres_any=("Drama",))), []),
        (replace(query(1, 3, count=50), item_filter=ItemFilter(genres_any=("Western",))), []),
    ],
    ids=[
        "all items",
        "as many as it finds",
        "more than it finds",
        "one more than a scan is for",
        "no more than a scan is for",
        "most items",
        "few items",
    ],
)
def test_the_index_is_asked_where_many_items_are_allowed_and_otherwise_not(
    large: Path, asking: RecallQuery, asked: list[int]
) -> None:
    channel = VectorChannel.open(large)
    channel._index = index = _Watched(channel._index)
    [found] = channel.recall([asking])
    [expected] = VectorChannel.open(large, exact=True).recall([asking])
    assert index.asked == asked
    assert index.index.ef == WIDTH < MANY / 50
    assert len(found) == len(expected) == asking.count
    if asked:
        assert np.isin(found.item_ids, expected.item_ids).mean() >= 0.95
    else:
        assert found.item_ids.tolist() == expected.item_ids.tolist()


def test_only_the_latest_known_events_are_read(trained: Path) -> None:
    channel = VectorChannel.open(trained)
    channel._tower._limit = 3
    ids = [1, 3, 5, 999, 7, 9]
    inputs = channel._tower.inputs([query(*ids), query()], channel.catalogue)
    assert channel.catalogue.item_ids[inputs["history_row"][0]].tolist() == [5, 7, 9]
    assert inputs["history_age"][0].tolist() == [4 * DAY, 2 * DAY, DAY]
    assert inputs["history_mask"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert np.isnan(inputs["history_value"][1]).all()


def test_extreme_values_and_times_have_finite_scores(trained: Path) -> None:
    history = History.of([1, 3, 5], [0, NOW, NOW + 10**9], values=[3e38, -3e38, float("nan")])
    [found] = VectorChannel.open(trained).recall([RecallQuery(history, NOW, 16)])
    assert len(found) == 16


def test_loads_a_bundle_whose_manifest_describes_the_index(trained: Path) -> None:
    channel = VectorChannel.load(manifest_of(trained, read_facts(trained).index))
    assert len(channel.recall([query(1)])[0]) == 5


@pytest.mark.parametrize("change", [{"dim": 7}, {"space": "l2"}, {"count": 3}, None])
def test_refuses_an_index_that_the_manifest_does_not_describe(trained: Path, change: dict[str, object] | None) -> None:
    found = read_facts(trained).index
    expected = None if change is None else IndexFacts.model_validate({**found.model_dump(), **change})
    with pytest.raises(BundleMismatch, match="the manifest says"):
        VectorChannel.load(manifest_of(trained, expected))


def _index(folder: Path, vectors: np.ndarray) -> None:
    index = hnswlib.Index(space="ip", dim=vectors.shape[1])
    index.init_index(len(vectors))
    index.add_items(vectors)
    index.save_index(str(folder / INDEX_FILE))


def test_refuses_an_index_of_another_dim_or_count_or_of_other_vectors(folder: Path) -> None:
    vectors = np.load(folder / VECTORS_FILE)
    dim = vectors.shape[1]
    for other, message in (
        (vectors[:, 1:], f"dim {dim - 1} and 16 items, expected dim {dim}"),
        (vectors[:-1], "15 items, expected"),
        (vectors + 1, "its distances are not those of"),
    ):
        _index(folder, other)
        with pytest.raises(BundleMismatch, match=message):
            VectorChannel.open(folder)


def test_refuses_facts_of_another_space(folder: Path) -> None:
    text = (folder / FACTS_FILE).read_text(encoding="utf-8")
    (folder / FACTS_FILE).write_text(text.replace('"ip"', '"l2"'), encoding="utf-8")
    with pytest.raises(BundleMismatch, match="says space l2"):
        VectorChannel.open(folder)


def test_refuses_vectors_that_do_not_fit_the_catalogue(folder: Path) -> None:
    np.save(folder / VECTORS_FILE, np.load(folder / VECTORS_FILE)[:-1])
    with pytest.raises(BundleMismatch, match="to fit the catalogue"):
        VectorChannel.open(folder)


def test_refuses_a_tower_of_another_width(folder: Path, tmp_path: Path) -> None:
    snapshot = checkerboard(6, 16)
    train(snapshot, varied(CONFIG, pooled={"embedding_size": 4, "epochs": 1}), tmp_path / "other")
    shutil.copy(tmp_path / "other" / TOWER_FILE, folder / TOWER_FILE)
    with pytest.raises(BundleMismatch, match="user vectors of 9 dimensions, items have 13"):
        VectorChannel.open(folder)


@pytest.mark.parametrize("name", [FACTS_FILE, INDEX_FILE, TOWER_FILE])
@pytest.mark.parametrize("content", [b"", b"not what it should be", None], ids=["empty", "garbage", "missing"])
def test_names_a_file_that_cannot_be_read(folder: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=Path(name).name):
        VectorChannel.open(folder)


def test_names_an_index_that_is_cut_short(folder: Path) -> None:
    content = (folder / INDEX_FILE).read_bytes()
    (folder / INDEX_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleDamaged, match="hnswlib cannot read it"):
        VectorChannel.open(folder)
