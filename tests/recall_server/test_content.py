"""The content channel: contract, neighbours by genre, items that nobody has taken, and what is known at the cut-off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from offline.dataset.tables import SCHEMAS, table_path
from offline.recall.content import ContentConfig, item_vectors, train
from offline.recall.descriptions import people_terms
from recall_server.channels.base import Channel
from recall_server.channels.content import FACTS_FILE, VECTORS_FILE, ContentChannel
from recsys.domain import History, RecallQuery, RecallResult
from recsys.errors import BundleMismatch
from recsys.people import People, Role
from tests.recall_server.conformance import DAY, NOW, ChannelConformance, history_of
from tests.recall_server.toy import checkerboard, snapshot_of

GENRES = {1: "Crime|Drama", 2: "Crime|Drama", 3: "Crime", 4: "Comedy", 5: "Comedy|Romance", 6: "Western", 7: ""}
YEARS = dict.fromkeys(GENRES, 1990)
GENRES_ONLY = ContentConfig(decade_weight=0, text_weight=0, half_life_days=None, history_value_floor=1)


def opened(folder: Path, genres: dict[int, str], config: ContentConfig = GENRES_ONLY) -> ContentChannel:
    """A catalogue of which only items 1 and 4 were ever taken."""
    snapshot = snapshot_of([(1, 1, 9.0, 5.0), (1, 4, 8.0, 3.0)], genres, years=dict.fromkeys(genres, 1990))
    snapshot.catalogue.save(folder)
    train(snapshot, config, folder)
    return ContentChannel.open(folder)


def ask(channel: Channel, history: History) -> RecallResult:
    """The answer to one history."""
    [result] = channel.recall([RecallQuery(history, NOW, 100)])
    return result


def write(tables: Path, name: str, rows: list[dict[str, object]]) -> None:
    """One table as ingest writes it; columns that `rows` lack are null."""
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[name]), table_path(tables, name))


class TestContentConformance(ChannelConformance):
    needs_history = True

    @pytest.fixture
    def channel(self, tmp_path: Path) -> Channel:
        snapshot = checkerboard(12, 16)
        snapshot.catalogue.save(tmp_path)
        train(snapshot, ContentConfig(), tmp_path)
        return ContentChannel.open(tmp_path)


def test_neighbours_by_genre_come_first_although_nobody_took_them(tmp_path: Path) -> None:
    found = ask(opened(tmp_path, GENRES), history_of([1]))
    assert found.item_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert_allclose(found.scores[:2], 1, rtol=1e-6)
    assert 0 < found.scores[2] < 1
    assert found.scores[3:].tolist() == [0, 0, 0]


def test_the_profile_is_the_weighted_mean_and_the_seed_what_adds_most(tmp_path: Path) -> None:
    config = GENRES_ONLY.model_copy(update={"half_life_days": 10.0, "history_value_floor": 0.5})
    channel = opened(tmp_path, GENRES, config)
    history = History.of([4, 1], [NOW - 10 * DAY, NOW], values=[5.0, 3.0])
    weights = {4: 0.5, 1: 0.5}
    expected = sum(w * channel.vectors[item - 1] for item, w in weights.items()) / sum(weights.values())
    assert_allclose(channel.user_vector(history), expected, rtol=1e-6)
    found = ask(channel, history)
    assert found.seed_item_ids is not None
    assert found.seed_present is not None
    seeds = dict(zip(found.item_ids[found.seed_present].tolist(), found.seed_item_ids[found.seed_present], strict=True))
    assert seeds == {1: 1, 2: 1, 3: 1, 4: 4, 5: 4}


def test_a_new_item_is_reachable_after_indexing_again(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    assert 8 not in ask(opened(before, GENRES), history_of([1])).item_ids
    found = ask(opened(after, {**GENRES, 8: "Crime|Drama"}), history_of([1]))
    assert found.item_ids[:3].tolist() == [1, 2, 8]
    assert found.seed_item_ids is not None
    assert found.seed_item_ids[:3].tolist() == [1, 1, 1]


def test_an_item_without_description_is_no_candidate_and_no_evidence(tmp_path: Path) -> None:
    channel = opened(tmp_path, GENRES)
    assert 7 not in ask(channel, history_of([1])).item_ids
    assert len(ask(channel, history_of([7]))) == 0


def test_tags_count_from_their_own_time_on(tmp_path: Path) -> None:
    snapshot = snapshot_of([(1, 1, 9.0)], GENRES, years=YEARS)
    tag = {"user_id": 1, "tag": "Film  Noir", "timestamp": NOW}
    write(tmp_path, "tags", [{**tag, "item_id": 4}, {**tag, "item_id": 6, "tag": "film noir"}])
    config = ContentConfig(genre_weight=0, decade_weight=0, text_weight=0)
    vectors = item_vectors(snapshot, config, tables=tmp_path)
    assert_allclose(vectors @ vectors[3], [0, 0, 0, 1, 0, 1, 0], atol=1e-6)
    write(tmp_path, "tags", [{**tag, "item_id": 4}, {**tag, "item_id": 6, "timestamp": NOW + 1}])
    assert not item_vectors(snapshot, config, tables=tmp_path).any()


def test_overviews_people_and_decades_make_items_similar(tmp_path: Path) -> None:
    years = {1: 1994, 2: 1981, 3: 1990, 4: 1999, 5: 1961, 6: 1962, 7: 1920}
    snapshot = snapshot_of([(1, 1, 9.0)], GENRES, years=years)
    texts = {5: "A heist", 7: "The perfect heist."}
    write(tmp_path, "item_texts", [{"item_id": item_id, "overview": text} for item_id, text in texts.items()])
    owners = np.asarray([0, 1, 1, 1, 1, 1, 2, 2])
    roles = np.asarray([Role.CAST, Role.DIRECTOR], np.int8)
    people = People(owners, np.zeros(2, np.int32), roles, np.asarray([77]))
    snapshot = replace(snapshot, items=replace(snapshot.items, people=people))
    only = {"genre_weight": 0.0, "decade_weight": 0.0, "people_weight": 0.0, "text_weight": 0.0}
    by_text = item_vectors(snapshot, ContentConfig(**{**only, "text_weight": 1.0}), tables=tmp_path)
    assert by_text[4] @ by_text[6] > by_text[4] @ by_text[5]
    by_people = item_vectors(snapshot, ContentConfig(**{**only, "people_weight": 1.0}))
    assert_allclose(by_people @ by_people[0], [1, 0, 0, 0, 0, 1, 0], atol=1e-6)
    by_decade = item_vectors(snapshot, ContentConfig(**{**only, "decade_weight": 1.0}))
    near = by_decade @ by_decade[0]
    assert near[0] == pytest.approx(near[2]) == pytest.approx(near[3]) == pytest.approx(1)
    assert 0 < near[1] < 1
    assert near[[4, 5, 6]].tolist() == [0, 0, 0]


def test_many_terms_are_cut_to_their_largest_components() -> None:
    snapshot = checkerboard(4, 40)
    full = item_vectors(snapshot, ContentConfig(text_weight=0, dim=64))
    cut = item_vectors(snapshot, ContentConfig(text_weight=0, dim=3))
    assert cut.shape == (40, 3)
    assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-5)
    assert np.corrcoef((full @ full.T).ravel(), (cut @ cut.T).ravel())[0, 1] > 0.9


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    channel = opened(tmp_path, GENRES)
    np.save(tmp_path / VECTORS_FILE, channel.vectors[:, 1:])
    with pytest.raises(BundleMismatch, match=f"{VECTORS_FILE}.*to fit {FACTS_FILE}"):
        ContentChannel.open(tmp_path)


def test_terms_leave_the_people_as_they_are() -> None:
    """Who directs and plays is one term of the item, but still stands twice in its list of people."""
    snapshot = checkerboard(2, 6)
    roles = np.asarray([Role.DIRECTOR, Role.CAST, Role.CAST, Role.CAST], np.int8)
    rows = np.asarray([1, 0, 1, 1], np.int32)
    people = People(np.asarray([0, 3, 4, 4, 4, 4, 4]), rows, roles, np.asarray([77, 78]))
    terms = people_terms(replace(snapshot, items=replace(snapshot.items, people=people)))
    assert terms.nnz == 2
    assert people.indptr.tolist() == [0, 3, 4, 4, 4, 4, 4]
    assert people.person_rows.tolist() == [1, 0, 1, 1]
