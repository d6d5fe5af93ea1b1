"""The report on vectors whose structure is known: two tastes, twelve films each, and one film that nobody knows."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.testing import assert_allclose

from gateway.bundle.state import StoredHistories, write_gateway_files
from offline.commands.report import report
from offline.publish.publish import BundleFacts, publish
from offline.studies.report import analysis
from offline.studies.report.config import ReportConfig
from offline.studies.report.embeddings import ITEMS_FILE, USERS_FILE, Embeddings
from offline.studies.report.labels import place_labels, shortened
from offline.studies.report.page import ReportSection, write_page
from recsys.bundle import ChannelPolicy, ServingPolicy
from recsys.catalogue import Catalogue, ItemTexts
from recsys.errors import BundleMismatch, BundleMissing

N_USERS, N_ITEMS = 40, 25
PICTURES = ("cold.png", "lengths.png", "similarity.png", "map.png", "users.png")
GENRES = ("Drama", "Horror")


def parts(folder: Path, *, with_vectors: bool = True) -> Path:
    """Users 0-19 take items 0-11 (Drama), the others items 12-23 (Horror); item 24 (Horror) has no event.

    Dimension 0 is the taste, 1 a detail of it, 2 a constant of users, 3 the items' padding.
    """
    item_ids, users = np.arange(100, 100 + N_ITEMS), np.arange(1, N_USERS + 1)
    horror = np.arange(N_ITEMS) >= 12
    genres = np.stack([~horror, horror], axis=1)
    years = np.full(N_ITEMS, 1990, np.int16)
    Catalogue(item_ids, years, genres, GENRES).save(folder)
    titles = [f"{'Horror' if scary else 'Drama'} {number}" for number, scary in enumerate(horror)]
    titles[0], titles[1] = "Cash $1 and $2 | a story", "日本"
    ItemTexts.of([str(number) for number in item_ids], titles).save(folder)
    taste = np.where(users > 20, 1.0, -1.0)
    taken = [item_ids[12:24] if likes > 0 else item_ids[:12] for likes in taste]
    events = np.concatenate([items[: 4 + row % 9] for row, items in enumerate(taken)])
    counts = [len(items[: 4 + row % 9]) for row, items in enumerate(taken)]
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    n = len(events)
    histories = StoredHistories(
        users, indptr, events, np.arange(n), np.ones(n, np.int8), np.full(n, 4, np.float32)
    )  # fmt: skip
    write_gateway_files(folder, histories=histories, user_keys={}, popular_item_ids=item_ids)
    if with_vectors:
        rng = np.random.default_rng(3)
        shape = [
            np.where(horror, 1.0, -1.0),
            rng.normal(0, 0.1, N_ITEMS),
            rng.normal(0, 9, N_ITEMS),
            np.arange(N_ITEMS),
        ]
        write_vectors(folder / ITEMS_FILE, "item_id", item_ids, np.stack(shape, axis=1))
        shape = [taste, rng.normal(0, 0.1, N_USERS), np.ones(N_USERS), np.zeros(N_USERS)]
        write_vectors(folder / USERS_FILE, "user_id", users, np.stack(shape, axis=1))
    return folder


def write_vectors(path: Path, key: str, ids: np.ndarray, vectors: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = pa.array(vectors.astype(np.float32).ravel())
    pq.write_table(pa.table({key: ids, "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])}), path)


def published(root: Path, *, with_vectors: bool = True) -> ReportConfig:
    """Publishes the world as the current evaluation bundle of the data set `toy`."""
    config = ReportConfig(dataset="toy", root=root, films=6, neighbours=3, clusters=2, cold_events=1)
    channel = ChannelPolicy(name="popularity", count=10, weight=1.0, history_limit=0)
    policy = ServingPolicy(channels=(channel,), rank_count=10, ranking="blended", serving_clock="cutoff")
    facts = BundleFacts("evaluation", "toy", 1_000, {}, policy, (), None, {})

    def golden(folder: Path) -> None:
        (folder / "golden").mkdir()
        for role in ("popularity", "itemcf", "vector", "rank", "gateway"):
            (folder / "golden" / f"{role}.json").write_text("{}")

    publish(config.store("evaluation"), [parts(root / "parts", with_vectors=with_vectors)], facts, golden=golden)
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ReportConfig:
    return published(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def embeddings(config: ReportConfig) -> Embeddings:
    store = config.store("evaluation")
    return Embeddings.load(store.open(store.release().current))


def test_constants_and_padding_say_nothing_of_similarity(embeddings: Embeddings) -> None:
    assert embeddings.informative.tolist() == [True, True, False, False]
    similarity = embeddings.item_space @ embeddings.item_space.T
    assert similarity[:12, :12].min() > 0.9
    assert similarity[:12, 12:].max() < -0.9
    assert_allclose(np.linalg.norm(embeddings.user_space, axis=1), 1)


def test_neighbours_are_of_the_same_taste_and_in_order(embeddings: Embeddings) -> None:
    found = analysis.nearest(embeddings, 3, 5)
    assert {row for row, _ in found} <= set(range(12)) - {3}
    assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)


def test_the_most_known_come_first(embeddings: Embeddings) -> None:
    assert embeddings.item_events[24] == 0
    assert embeddings.item_events[embeddings.best_known(5)].tolist() == sorted(embeddings.item_events)[::-1][:5]


def test_groups_are_the_two_tastes_and_say_so(embeddings: Embeddings) -> None:
    labels, groups = analysis.user_groups(embeddings, 2, seed=1)
    assert len(set(labels[:20].tolist())) == len(set(labels[20:].tolist())) == 1
    assert labels[0] != labels[20]
    drama = groups[labels[0]]
    assert drama.users == 20
    assert drama.genre_lift[0] > 1.5
    assert drama.genre_lift[1] == 0
    assert set(drama.films) <= set(range(12))
    assert len(drama.films) == 5


def test_pairs_of_one_genre_are_more_alike(embeddings: Embeddings) -> None:
    found = analysis.pair_similarity(embeddings, seed=1)
    assert found.genre_items.mean() > 0.9 > found.any_items.mean() + 0.5
    assert found.nearest_items.min() > 0.9
    assert len(found.nearest_items) == N_ITEMS


def test_dimensions_used_lie_between_a_line_and_all() -> None:
    rng = np.random.default_rng(1)
    line = np.outer(rng.normal(size=500), [1.0, 2.0, 3.0])
    assert analysis.dimensions_used(line) == pytest.approx(1)
    assert analysis.dimensions_used(rng.normal(size=(5_000, 3))) == pytest.approx(3, abs=0.02)
    assert analysis.dimensions_used(np.ones((4, 3))) == 0


def test_an_item_shows_its_rarest_genre(embeddings: Embeddings) -> None:
    names, kinds = analysis.shown_genres(embeddings, np.asarray([0, 12, 13, 24]))
    assert names == ["Horror", "Drama"]
    assert kinds.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_maps_keep_tastes_apart_and_are_the_same_each_time(embeddings: Embeddings, method: str) -> None:
    first, again = (analysis.flat_map(embeddings.item_space, method=method, seed=1) for _ in range(2))
    assert first.shape == (N_ITEMS, 2)
    np.testing.assert_array_equal(first, again)
    inside = np.linalg.norm(first[:12] - first[:12].mean(axis=0), axis=1).mean()
    assert np.linalg.norm(first[:12].mean(axis=0) - first[12:].mean(axis=0)) > 1.5 * inside


@pytest.fixture(scope="module")
def folder(config: ReportConfig) -> Path:
    """The report of the world."""
    report(config)
    return config.home / "report"


def test_one_command_writes_one_folder_with_pages_and_pictures(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*PICTURES, "report.html", "report.md"])
    for name in PICTURES:
        data = (folder / name).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 10_000, f"{name} is empty"
    text, page = ((folder / name).read_text("utf-8") for name in ("report.md", "report.html"))
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", text)) == set(re.findall(r'<img src="(.*?)"', page)) == set(PICTURES)
    assert "| cold items (fewer than 1 events) | 1 |" in text
    assert "| Cash $1 and $2 \\| a story (1990) | " in text
    assert "<td>Cash $1 and $2 | a story (1990)</td>" in page
    assert re.search(r"\| Horror 24 \(1990\) \| 0 \| Horror \d+ ", text)
    assert "shares a genre with it in 100% of the cases" in text


def test_a_bundle_without_vectors_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BundleMismatch, match="nothing to report on; publish a bundle whose channels include `vector`"):
        report(published(tmp_path, with_vectors=False))
    with pytest.raises(BundleMissing, match="run `python -m offline run`"):
        report(ReportConfig(dataset="none", root=tmp_path))


def test_labels_of_a_crowd_cover_neither_each_other_nor_the_edge() -> None:
    figure = Figure((6, 5), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = np.random.default_rng(2).normal(0, 0.05, (14, 2))
    axes.scatter(places[:, 0], places[:, 1])
    axes.set(xlim=(-0.5, 0.5), ylim=(-0.5, 0.5))
    assert place_labels(axes, places, [f"A film with number {n}" for n in range(14)]) == 14
    canvas.draw()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_long_titles_are_cut_and_pages_escape_what_they_quote(tmp_path: Path) -> None:
    assert shortened("Star Wars: Episode IV - A New Hope", 20) == "Star Wars: Episode…"
    write_page(tmp_path, "A & B", [ReportSection("<i>", ["x < y"], header=("h",), rows=[("a|b\nc",)])])
    assert "<h2>&lt;i&gt;</h2>" in (tmp_path / "report.html").read_text()
    assert "| a\\|b c |" in (tmp_path / "report.md").read_text()
