"""Makes the content channel's item vectors from metadata alone: no event is used, so re-indexing takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import csr_matrix, hstack
from sklearn.decomposition import TruncatedSVD  # type: ignore[import-untyped]
from sklearn.preprocessing import normalize  # type: ignore[import-untyped]

from offline.dataset.interactions import Snapshot
from offline.recall.descriptions import decade_terms, genre_terms, people_terms, tag_terms, text_terms
from offline.recall.interaction_matrix import value_range
from offline.recall.item_index import ItemIndexConfig, histories_of, index_channel
from recall_server.channels.content import FACTS_FILE, VECTORS_FILE, ContentChannel, ContentFacts
from recall_server.channels.evidence import ValueScale


class ContentConfig(ItemIndexConfig):
    """What describes an item, how a history becomes a profile, and the index of a large catalogue."""

    genre_weight: float = Field(default=1.0, ge=0, description="weight of genres in the similarity of two items")
    decade_weight: float = Field(default=0.5, ge=0, description="weight of the decade")
    people_weight: float = Field(default=0.5, ge=0, description="weight of directors, cast and writers")
    tag_weight: float = Field(default=1.0, ge=0, description="weight of the tags given by the cut-off")
    text_weight: float = Field(default=0.5, ge=0, description="weight of words of title and overview")
    max_words: int = Field(default=20_000, ge=1, description="most frequent words of titles and overviews that count")
    dim: int = Field(
        default=128, ge=1, le=1_024, description="length of an item vector; with more terms, their largest components"
    )
    history_value_floor: float = Field(
        default=0.1, ge=0, le=1, description="what the lowest rating counts in a user's history; the highest counts 1"
    )
    half_life_days: float | None = Field(
        default=30, gt=0, description="an event of the history loses half its weight in this time; null: never"
    )
    seed: int = Field(default=1, ge=0, description="seed of the truncated SVD and of the index")
    index_recall: float = Field(default=0.98, gt=0, le=1, description="lowest recall@100 against exact search")


def train(snapshot: Snapshot, config: ContentConfig, folder: Path, *, tables: Path | None = None) -> None:
    """Writes the files of `ContentChannel` below `folder`; tags and overviews come from `tables`, where there are."""
    vectors = item_vectors(snapshot, config, tables=tables)
    low, high = value_range(snapshot.events.values)
    facts = ContentFacts(
        items=len(vectors),
        dim=vectors.shape[1],
        value_scale=ValueScale(low=low, high=high, floor=config.history_value_floor),
        half_life_days=config.half_life_days,
    )
    (folder / FACTS_FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / FACTS_FILE).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
    np.save(folder / VECTORS_FILE, vectors)
    channel = ContentChannel(snapshot.catalogue, facts, vectors)
    index_channel(channel, histories_of(snapshot), config, folder, seed=config.seed)


def item_vectors(snapshot: Snapshot, config: ContentConfig, *, tables: Path | None = None) -> NDArray[np.float32]:
    """float32[items, dim] of length 1; 0 for an item that nothing describes.

    Inner products are cosines of the joined terms: exact where there are at most `dim` of them, else those of the
    largest components (truncated SVD).
    """
    terms = normalize(_joined(snapshot, config, tables))
    n, found = terms.shape
    if found <= config.dim:
        return np.ascontiguousarray(terms.toarray(), np.float32)
    dim = min(config.dim, n)
    components = TruncatedSVD(dim, random_state=config.seed).fit_transform(terms)
    return np.ascontiguousarray(normalize(components), np.float32)


def _joined(snapshot: Snapshot, config: ContentConfig, tables: Path | None) -> csr_matrix:
    """float32[items, terms]: all blocks side by side, a row of each of length 1 or 0 before its weight."""
    blocks: dict[str, Callable[[], csr_matrix]] = {
        "genre_weight": lambda: genre_terms(snapshot),
        "decade_weight": lambda: decade_terms(snapshot),
        "people_weight": lambda: people_terms(snapshot),
        "tag_weight": lambda: tag_terms(snapshot, tables),
        "text_weight": lambda: text_terms(snapshot, tables, max_words=config.max_words),
    }
    weighted = [make() * getattr(config, name) for name, make in blocks.items() if getattr(config, name)]
    used = [block for block in weighted if block.shape[1]]
    return csr_matrix(hstack(used)) if used else csr_matrix(np.zeros((len(snapshot.catalogue), 1), np.float32))
