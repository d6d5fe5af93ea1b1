"""Text vectors without a network: TF-IDF, then truncated SVD (latent semantic analysis, Deerwester et al. 1990).

What was learned is kept word by word, so that a text that comes later gets its vector without anything being learned
again, in the space that models were trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]
    CountVectorizer,
    TfidfTransformer,
)

WORD = r"(?u)\b[^\W_]{2,}\b"
MOST_WORDS = 50_000
"""Most frequent words that are kept."""
LARGEST_SHARE = 0.5
"""Words in a larger share of all texts are left out: they distinguish nothing."""


@dataclass(frozen=True)
class WordVectors:
    """The vector of each word; a text's is the sum over its words, weighted, of length 1."""

    words: tuple[str, ...]
    """In alphabetical order."""
    vectors: NDArray[np.float32]
    """float32[words, d]: inverse document frequency times the word's row of the SVD."""

    @classmethod
    def fit(cls, texts: list[str], dimensions: int, *, seed: int) -> WordVectors:
        """Learns words of at least two texts, and at most `dimensions` dimensions, from `texts`.

        Fewer dimensions come out where there are fewer words or texts; never less than one.
        """
        counter = CountVectorizer(token_pattern=WORD, stop_words="english", max_features=MOST_WORDS)
        try:
            counts = counter.fit_transform(texts)
        except ValueError:  # no text has a word
            return cls((), np.zeros((0, 1), np.float32))
        frequency = np.asarray((counts > 0).sum(axis=0)).ravel()
        kept = (frequency >= 2) & (frequency <= max(2, LARGEST_SHARE * len(texts)))
        if not kept.any():
            return cls((), np.zeros((0, 1), np.float32))
        words = tuple(counter.get_feature_names_out()[kept].tolist())
        weights = TfidfTransformer(sublinear_tf=True).fit(counts[:, kept])
        d = min(dimensions, len(words), len(texts))
        svd = TruncatedSVD(d, random_state=seed).fit(weights.transform(counts[:, kept]))
        vectors = weights.idf_[:, None] * svd.components_.T
        return cls(words, np.ascontiguousarray(vectors, dtype=np.float32))

    def of(self, texts: list[str]) -> NDArray[np.float32]:
        """float32[texts, d]: vectors of length 1; 0 for a text without a known word."""
        if not self.words:
            return np.zeros((len(texts), self.vectors.shape[1]), np.float32)
        counter = CountVectorizer(token_pattern=WORD, vocabulary=self.words)
        counts: csr_matrix = counter.transform(texts).astype(np.float32)
        counts.data = 1 + np.log(counts.data)
        sums = np.asarray(counts @ self.vectors, np.float32)
        return of_length_one(sums)

    def save(self, path: Path) -> None:
        """Writes a Parquet file: word, vector."""
        values = pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.ravel()), self.vectors.shape[1])
        pq.write_table(pa.table({"word": pa.array(self.words, pa.string()), "vector": values}), path)

    @classmethod
    def load(cls, path: Path) -> WordVectors:
        """Reads what `save` wrote."""
        table = pq.read_table(path)
        width = table.schema.field("vector").type.list_size
        flat = table["vector"].combine_chunks().flatten().to_numpy()
        return cls(tuple(table["word"].to_pylist()), flat.reshape(-1, width).astype(np.float32))


def of_length_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every row divided by its length; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled
