"""The vector channel: contract, exact and by index, and files that do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import hnswlib
import numpy as np
import pytest
from numpy.testing import assert_allclose

from offline.recall.two_tower import TwoTowerConfig, train
from offline.recall.two_tower.config import PooledConfig
from recall_server.channels.base import Channel
from recall_server.channels.registry import channel_class
from recall_server.channels.vector import (
    FACTS_FILE,
    FILES,
    INDEX_FILE,
    INDEX_FILES,
    TOWER_FILE,
    VECTORS_FILE,
    VectorChannel,
    read_facts,
)
from recsys.bundle import Bundle, FileEntry, IndexFacts, Manifest, ServingPolicy
from recsys.domain import History, RecallQuery
from recsys.errors import BundleDamaged, BundleError, BundleMismatch
from tests.offline.recall.two_tower.towers import varied
from tests.recall_server.conformance import DAY, NOW, ChannelConformance, history_of
from tests.recall_server.indexes import always_by_index
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
        return always_by_index(VectorChannel.open(trained))


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
    by_index = always_by_index(VectorChannel.open(trained)).recall(queries)
    exact = VectorChannel.open(trained, exact=True).recall(queries)
    for found, expected in zip(by_index, exact, strict=True):
        assert found.item_ids.tolist() == expected.item_ids.tolist()
        assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)


def test_an_index_of_before_there_was_a_metric_of_users_answers(folder: Path) -> None:
    """A bundle of version 0.1.0: the graph is over the vectors themselves, and there is no map of queries."""
    expected = VectorChannel.open(folder, exact=True).recall([query(1, 3, count=16)])
    (folder / INDEX_FILES.query_map).unlink()
    _index(folder, np.load(folder / VECTORS_FILE))
    channel = always_by_index(VectorChannel.open(folder))
    assert channel.nearest.index is not None
    assert channel.nearest.index.query_map is None
    [found] = channel.recall([query(1, 3, count=16)])
    assert found.item_ids.tolist() == expected[0].item_ids.tolist()


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
