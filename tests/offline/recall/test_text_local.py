"""Texts of items, and vectors made of their words without a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from offline.dataset.interactions import Dataset
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import ingest
from offline.recall.text.config import TextConfig
from offline.recall.text.documents import item_documents
from offline.recall.text.local import WordVectors
from offline.recall.text.vectors import text_vectors

SPACE = ["A rocket leaves orbit", "The rocket returns from orbit", "An orbit too far"]
LOVE = ["A wedding in spring", "The wedding guests quarrel", "One spring, another wedding"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of seven items that arrive one by one; three are about space, three about weddings, one says nothing."""
    raw = tmp_path_factory.mktemp("raw")
    (raw / "interactions.csv").write_text(
        "user,item,timestamp\n" + "".join(f"ann,{item},{item * 100}\n" for item in range(1, 8))
    )
    rows = [f'{item},T{item},Drama,2001,"D{item}|E",{text}.' for item, text in enumerate([*SPACE, *LOVE], start=1)]
    header = "id,title,genres,year,directors,overview"
    (raw / "items.csv").write_text("\n".join([header, *(row.replace(", a", " a") for row in rows), "7,,,,,", ""]))
    folder = tmp_path_factory.mktemp("made") / "tables"
    ingest(open_dataset("own", raw), folder)
    return folder


def test_a_text_says_what_is_known_of_an_item(tables: Path) -> None:
    catalogue = Dataset.load("own", tables).snapshot(700).catalogue
    texts = item_documents(tables, catalogue, max_characters=500)
    assert texts[0] == "T1 (2001). Drama. Directed by D1, E. A rocket leaves orbit."
    assert texts[6] == "7"
    assert [text[:20] for text in texts] == item_documents(tables, catalogue, max_characters=20)


def test_texts_of_one_subject_are_near_each_other() -> None:
    vectors = WordVectors.fit([*SPACE, *LOVE], 2, seed=1).of([*SPACE, *LOVE])
    assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    similarity = vectors @ vectors.T
    assert similarity[:3, :3].min() > 0.9
    assert similarity[3:, 3:].min() > 0.9
    assert np.abs(similarity[:3, 3:]).max() < 0.1


def test_a_later_text_is_placed_among_the_words_that_were_learned(tmp_path: Path) -> None:
    words = WordVectors.fit([*SPACE, *LOVE], 2, seed=1)
    words.save(tmp_path / "words.parquet")
    loaded = WordVectors.load(tmp_path / "words.parquet")
    assert loaded.words == words.words == ("orbit", "rocket", "spring", "wedding")
    texts = ["Rocket, rocket, ROCKET!", "Quite other things"]
    assert_array_equal(loaded.of(texts), words.of(texts))
    assert float(loaded.of(texts)[0] @ words.of(SPACE)[0]) > 0.9
    assert not loaded.of(texts)[1].any()


@pytest.mark.parametrize("texts", [["the", "and"], ["one word each", "nothing shared here"], [""]])
def test_texts_without_shared_words_have_no_vector(texts: list[str]) -> None:
    assert_array_equal(WordVectors.fit(texts, 4, seed=1).of(texts), np.zeros((len(texts), 1), np.float32))


def test_vectors_stand_by_catalogue_row_and_tell_what_they_are(tables: Path, tmp_path: Path) -> None:
    catalogue = Dataset.load("own", tables).snapshot(700).catalogue
    config = TextConfig(dimensions=3)
    made = text_vectors(tables, catalogue, tmp_path, config, cache=tmp_path / "none.sqlite")
    stored = np.load(tmp_path / "text/vectors.npy", allow_pickle=False)
    assert made is not None
    assert_array_equal(stored, made)
    assert (stored.dtype, stored.shape) == (np.float32, (7, 3))
    assert float(stored[0] @ stored[1]) > float(stored[0] @ stored[4])
    facts = json.loads((tmp_path / "text/facts.json").read_text())
    assert facts == {"source": "local", "model": "tf-idf, truncated svd", "dimensions": 3, "items": 7, "empty": 1}
    assert not (tmp_path / "none.sqlite").exists()


def test_items_that_come_later_move_no_vector_of_earlier_ones(tables: Path, tmp_path: Path) -> None:
    dataset, config, cache = Dataset.load("own", tables), TextConfig(dimensions=2), tmp_path / "none.sqlite"
    early, late = (dataset.snapshot(moment).catalogue for moment in (500, 700))
    first = text_vectors(tables, early, tmp_path / "early", config, cache=cache)
    then = text_vectors(tables, late, tmp_path / "late", config, cache=cache, earlier=tmp_path / "early")
    assert first is not None
    assert then is not None
    assert_array_equal(then[:5], first)
    assert then[5].any(), "an item that came later is placed by the words that are known"


def test_no_source_is_no_file(tables: Path, tmp_path: Path) -> None:
    catalogue = Dataset.load("own", tables).snapshot(700).catalogue
    assert text_vectors(tables, catalogue, tmp_path, TextConfig(source="none"), cache=tmp_path / "c") is None
    assert not list(tmp_path.iterdir())
