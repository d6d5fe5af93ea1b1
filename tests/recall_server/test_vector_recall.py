"""What the index of a large catalogue finds as it is exported and served, against exact search on the same vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from offline.recall.item_index import build_index, of_one_length
from offline.recall.two_tower import TwoTowerConfig
from offline.workflow.config import ServingConfig
from recall_server.channels import vector
from recall_server.channels.nearest import EXACT_ROWS, SCAN_WIDTH
from recall_server.channels.vector import FACTS_FILE, INDEX_FILES, VECTORS_FILE, VectorChannel, VectorFacts
from recsys.catalogue import Catalogue
from recsys.domain import NO_IDS, History, Ids, RecallQuery, RecallResult
from tests.recall_server.conformance import NOW
from tests.recall_server.indexes import clustered, without_index

pytestmark = pytest.mark.slow

ITEMS = 50_000
USERS = 200
"""As many again are what the export checks its index with."""

COUNT = ServingConfig().channel_count
MIN_RECALL = {100: 0.985, COUNT: 0.98}
"""Mean recall by number of items asked for."""


class Tastes:
    """Stands where the user tower does: the vector of user n is row n."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.rows = vectors

    def vectors(self, queries: Sequence[RecallQuery], catalogue: Catalogue) -> NDArray[np.float32]:
        return self.rows[[query.user_id for query in queries]]


class Watched:
    """A graph that keeps what it was asked for and what it found."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.found: list[NDArray[np.int64]] = []

    def knn_query(self, users: NDArray[np.float32], k: int, num_threads: int) -> tuple[Any, Any]:
        labels, distances = self.graph.knn_query(users, k=k, num_threads=num_threads)
        self.found += list(labels.astype(np.int64))
        return labels, distances


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> VectorChannel:
    """Over files made and opened with the settings of production."""
    folder: Path = tmp_path_factory.mktemp("catalogue")
    vectors, users = clustered(np.random.default_rng(0), items=ITEMS, users=2 * USERS)
    ids = np.arange(1, ITEMS + 1, dtype=np.int64)
    Catalogue(ids, np.full(ITEMS, 1990, np.int16), np.ones((ITEMS, 1), bool), ("Drama",)).save(folder)
    (folder / VECTORS_FILE).parent.mkdir()
    np.save(folder / VECTORS_FILE, of_one_length(vectors))
    built = build_index(vectors, np.arange(ITEMS), users[USERS:], TwoTowerConfig(), seed=1)
    built.save(folder, INDEX_FILES, unused=1)
    facts = VectorFacts(**built.facts.model_dump(), history_limit=1)
    (folder / FACTS_FILE).write_text(facts.model_dump_json(), encoding="utf-8")
    tastes = Tastes(np.pad(users[:USERS], ((0, 0), (0, 1))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector, "_open_tower", lambda path, facts: tastes)
        return VectorChannel.open(folder)


def asked(count: int, excluded: Sequence[Ids] | None = None) -> list[RecallQuery]:
    """What each user asks, without the items that are `excluded` for them."""
    exclude = excluded or [NO_IDS] * USERS
    return [
        RecallQuery(History.empty(), NOW, count, exclude_item_ids=exclude[user], user_id=user) for user in range(USERS)
    ]


def share_found(found: Sequence[RecallResult], expected: Sequence[RecallResult]) -> float:
    """Mean share of the expected items that were found."""
    pairs = zip(found, expected, strict=True)
    return float(np.mean([np.isin(exact.item_ids, answer.item_ids).mean() for answer, exact in pairs]))


def test_the_search_stays_narrow(channel: VectorChannel) -> None:
    """The first width that the export tries is enough: a hundredth of the items."""
    assert channel.nearest.index is not None
    assert channel.nearest.index.width == SCAN_WIDTH <= ITEMS / 95
    assert ITEMS > 4 * EXACT_ROWS


@pytest.mark.parametrize("count", MIN_RECALL)
@pytest.mark.parametrize(("n_excluded", "width"), [(0, SCAN_WIDTH), (50, SCAN_WIDTH), (600, 2 * SCAN_WIDTH)])
def test_what_the_index_finds_is_close_to_exact(
    channel: VectorChannel, count: int, n_excluded: int, width: int
) -> None:
    """With and without exclusions among the best. Every answer is what the graph found, none is a scan."""
    index = channel.nearest.index
    assert index is not None
    exact = without_index(VectorChannel(channel.catalogue, channel._tower, channel.nearest))
    best = exact.recall(asked(2 * n_excluded or 1))
    queries = asked(count, [result.item_ids[1::2][:n_excluded] for result in best])
    graph = Watched(index.graph)
    watched = VectorChannel(
        channel.catalogue, channel._tower, replace(channel.nearest, index=replace(index, graph=graph))
    )
    answers = watched.recall(queries)
    assert [len(rows) for rows in graph.found] == [width] * USERS
    for query, rows, answer in zip(queries, graph.found, answers, strict=True):
        of_graph = np.setdiff1d(channel.catalogue.item_ids[rows], query.exclude_item_ids)
        assert len(answer) == count
        assert np.isin(answer.item_ids, of_graph).all()
    assert share_found(answers, exact.recall(queries)) >= MIN_RECALL[count]
