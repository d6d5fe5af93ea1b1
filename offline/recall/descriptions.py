"""What describes an item, as sparse blocks of weighted terms: genres, decade, people, tags, title and overview."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]
    TfidfTransformer,
    TfidfVectorizer,
)

from offline.dataset.interactions import Snapshot
from offline.dataset.tables import table_path
from recsys.catalogue import NO_YEAR

_YEAR = re.compile(r"\s*\(\d{4}\)\s*$")
"""The year after a title; it is a feature of its own."""
_WORD = r"(?u)\b\w\w+\b"
_NEARBY = np.asarray([0.5, 1, 0.5], np.float32) / np.float32(np.sqrt(1.5))
"""A row of length 1: the decade before, its own, the one after."""


def genre_terms(snapshot: Snapshot) -> csr_matrix:
    """float32[items, genres]: TF-IDF of genres."""
    return _weighted(csr_matrix(snapshot.items.genres.astype(np.float32)))


def decade_terms(snapshot: Snapshot) -> csr_matrix:
    """float32[items, decades]: the decade, and at half its weight each of the two next to it."""
    years = snapshot.items.years.astype(np.int64)
    known = np.flatnonzero(years != NO_YEAR)
    if not len(known):
        return _nothing(len(years))
    decades = years[known] // 10 - years[known].min() // 10 + 1
    rows, columns = np.repeat(known, 3), (decades[:, None] + np.asarray([-1, 0, 1])).ravel()
    shares = np.tile(_NEARBY, len(known))
    return csr_matrix((shares, (rows, columns)), shape=(len(years), int(decades.max()) + 2))


def people_terms(snapshot: Snapshot) -> csr_matrix:
    """float32[items, people]: TF-IDF of directors, cast and writers."""
    people = snapshot.items.people
    n = len(snapshot.items.item_ids)
    if people is None:
        return _nothing(n)
    ones = np.ones(len(people.person_rows), np.float32)
    shape = (n, len(people.person_ids))
    matrix = csr_matrix((ones, people.person_rows, people.indptr), shape=shape, copy=True)  # changed in place below
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return _weighted(_shared(matrix))


def tag_terms(snapshot: Snapshot, tables: Path | None) -> csr_matrix:
    """float32[items, tags]: TF-IDF of the tags that users had given by the cut-off, each tag one term."""
    n = len(snapshot.items.item_ids)
    if tables is None or not table_path(tables, "tags").is_file():
        return _nothing(n)
    table = pq.read_table(table_path(tables, "tags"), columns=["item_id", "tag", "timestamp"])
    rows = snapshot.catalogue.rows(table["item_id"].to_numpy().astype(np.int64))
    kept = np.flatnonzero((rows >= 0) & (table["timestamp"].to_numpy() <= snapshot.cutoff))
    words = [" ".join(str(tag).lower().split()) for tag in table["tag"].take(kept).to_pylist()]
    terms, columns = np.unique(np.asarray(words, np.str_), return_inverse=True)
    ones = np.ones(len(kept), np.float32)
    matrix = csr_matrix((ones, (rows[kept], columns)), shape=(n, len(terms)))
    matrix.sum_duplicates()
    return _weighted(_shared(matrix))


def text_terms(snapshot: Snapshot, tables: Path | None, *, max_words: int) -> csr_matrix:
    """float32[items, words]: TF-IDF of titles and, where the tables have them, overviews; words of one item are left
    out, since they make nothing similar."""
    overviews = _overviews(tables)
    texts = [
        f"{_YEAR.sub('', str(title))} {overviews.get(item_id, '')}"
        for item_id, title in zip(snapshot.items.item_ids.tolist(), snapshot.items.titles, strict=True)
    ]
    if not _shares_words(texts):
        return _nothing(len(texts))
    vectorizer = TfidfVectorizer(
        max_features=max_words, min_df=2, stop_words="english", sublinear_tf=True, token_pattern=_WORD, dtype=np.float32
    )
    return csr_matrix(vectorizer.fit_transform(texts))


def _overviews(tables: Path | None) -> dict[int, str]:
    if tables is None or not table_path(tables, "item_texts").is_file():
        return {}
    table = pq.read_table(table_path(tables, "item_texts"), columns=["item_id", "overview"])
    return dict(zip(table["item_id"].to_pylist(), table["overview"].to_pylist(), strict=True))


def _shares_words(texts: list[str]) -> bool:
    """Whether two items have a word in common: without any, the vectorizer has no vocabulary and says so."""
    seen: set[str] = set()
    for words in _words(texts):
        if not seen.isdisjoint(words):
            return True
        seen |= words
    return False


def _words(texts: list[str]) -> Iterator[set[str]]:
    analyse = TfidfVectorizer(stop_words="english", token_pattern=_WORD).build_analyzer()
    return (set(analyse(text)) for text in texts)


def _nothing(n: int) -> csr_matrix:
    return csr_matrix(np.zeros((n, 0), np.float32))


def _shared(matrix: csr_matrix) -> csr_matrix:
    """The columns that at least two items have."""
    return csr_matrix(matrix[:, np.flatnonzero(np.bincount(matrix.indices, minlength=matrix.shape[1]) > 1)])


def _weighted(matrix: csr_matrix) -> csr_matrix:
    """TF-IDF with smoothed idf and sublinear counts; rows of length 1, or 0 where there is nothing."""
    if not matrix.nnz:
        return matrix
    return csr_matrix(TfidfTransformer(sublinear_tf=True).fit_transform(matrix), dtype=np.float32)
