"""A bundle of any size, made of a released one without training.

    python benchmarks/enlarge.py --bundles data/ml-1m/bundles/production --items 300000 --root path/to/new-folder

Every further item is a copy of an item of the bundle, and no two copies are alike:

vectors       an item's, moved by random parts of the ways to its 48 nearest ones, so that families of copies overlap
              and vectors are clustered as the trained ones are (`local_dimension`); indexes are built as in training
popularity    that of the original, divided by the copy's number: a long tail
links         those of the original, each to one copy of its target; a copy is drawn by its popularity, here and below
histories     those of the bundle, as long as they are, each event moved to a copy of its item
features      those of the original, as are genres, year, people, and the graph of the ranker

What a request does besides searching is what it does with the bundle itself: tower, ranker, histories and policy.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx
from copies import AT_ONCE, Copies
from onnx import numpy_helper
from pydantic import BaseModel

from gateway.bundle.state import USER_IDS_FILE, USER_KEYS, StoredHistories
from gateway.pipeline import fallback
from gateway.pipeline.request import Request
from gateway.pipeline.rerank import BONUS_FILE
from offline.indexing.graph import ROW_INPUTS
from offline.publish.golden_requests import GOLDEN_COUNT, write_golden
from offline.publish.publish import BundleFacts, publish
from offline.recall.als import ALSConfig
from offline.recall.content import ContentConfig
from offline.recall.item_index import ItemIndexConfig, build_index, index_channel, of_one_length
from offline.recall.two_tower import TwoTowerConfig
from rank_server.scoring import GRAPH_FILE
from recall_server.channels import als, content, itemcf, popularity, vector
from recall_server.channels.files import read_facts
from recall_server.channels.linear import LinearChannel
from recall_server.channels.popularity import PopularityScores
from recall_server.channels.vector import OnnxUserTower, VectorFacts
from recsys.arrays import open_array, string_files
from recsys.bundle import Bundle, BundleStore
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import Floats32, History, Ids, RecallQuery
from recsys.errors import CannotStart
from recsys.features import FeatureStore
from recsys.identity import FIRST_ASSIGNED
from recsys.ordering import order_by_score

SAMPLED_USERS = 2_000
"""Users whose vectors the indexes are built and checked with."""


@dataclass(frozen=True)
class Enlargement:
    """A bundle, and the copies of its items."""

    bundle: Bundle
    copies: Copies
    seed: int

    def write(self, folder: Path) -> None:
        """Writes everything below `folder` but golden requests and manifest.

        Raises CannotStart for a bundle whose ranker reads rows of the catalogue.
        """
        rng = np.random.default_rng(self.seed)
        self._catalogue(folder)
        writers = {"popularity": self._popularity, "itemcf": self._itemcf, "vector": self._vector}
        writers |= {"als": self._als, "content": self._content}
        self._gateway(folder, rng)
        for name, write in writers.items():
            if name in self.bundle.manifest.roles:
                (folder / name).mkdir()
                write(folder, rng)
        self._rank(folder)
        popular = order_by_score(open_array(folder / popularity.SCORES_FILE), self.item_ids)
        np.save(folder / fallback.FILE, self.item_ids[popular])

    @cached_property
    def before(self) -> Catalogue:
        """The bundle's own catalogue."""
        return Catalogue.load(self.bundle.folder)

    @cached_property
    def item_ids(self) -> Ids:
        """Those of the bundle, and the next numbers."""
        ids = self.before.item_ids
        return np.concatenate([ids, ids[-1] + 1 + np.arange(len(self.copies) - len(ids))])

    def _catalogue(self, folder: Path) -> None:
        before, base, texts = self.before, self.copies.base, ItemTexts.load(self.bundle.folder)
        people = before.people and before.people.take(base)
        measures = (None if column is None else column[base] for column in (before.runtimes, before.budgets))
        Catalogue(self.item_ids, before.years[base], before.genres[base], before.genre_names, people, *measures).save(
            folder
        )
        keys, titles, new = list(texts.keys), list(texts.titles), range(len(before), len(base))
        keys += [str(n) if n < FIRST_ASSIGNED else f"copy-{n}" for n in self.item_ids[len(before) :].tolist()]
        titles += [f"{titles[base[row]]}, copy {self.copies.number[row]}" for row in new]
        ItemTexts.of(keys, titles).save(folder)

    def _gateway(self, folder: Path, rng: np.random.Generator) -> None:
        source, stored = self.bundle.folder, StoredHistories.open(self.bundle.folder)
        rows = self.copies.draw(self.before.rows(stored.item_ids), rng)
        replace(stored, item_ids=self.item_ids[rows]).save(folder)
        for name in (*string_files(USER_KEYS), USER_IDS_FILE):
            shutil.copy(source / name, folder / name)
        if self.bundle.has(BONUS_FILE):
            np.save(folder / BONUS_FILE, open_array(source / BONUS_FILE)[self.copies.base])

    def _popularity(self, folder: Path, rng: np.random.Generator) -> None:
        del rng
        catalogue = Catalogue.load(folder)
        for name in (popularity.SCORES_FILE, popularity.RETURNING_SCORES_FILE):
            if self.bundle.has(name):
                scores = open_array(self.bundle.path(name))[self.copies.base] / (1 + self.copies.number)
                np.save(folder / name, scores.astype(np.float32))
        scores = open_array(folder / popularity.SCORES_FILE)
        np.save(folder / popularity.GENRE_SCALES_FILE, PopularityScores.of(scores, catalogue).genre_scales)
        self._copy(popularity.RETURNING_FACTS_FILE, folder)

    def _itemcf(self, folder: Path, rng: np.random.Generator) -> None:
        neighbours = open_array(self.bundle.path(itemcf.NEIGHBOURS_FILE))
        weights = open_array(self.bundle.path(itemcf.WEIGHTS_FILE))
        n, base = len(self.copies), self.copies.base
        targets, strengths = (
            np.empty((n, neighbours.shape[1]), np.int32),
            np.empty((n, neighbours.shape[1]), np.float32),
        )
        for start in range(0, n, AT_ONCE):
            part = base[start : start + AT_ONCE]
            # A row with fewer links ends in links to the row after the last, with weight 0.
            missing = neighbours[part] == len(neighbours)
            drawn = np.where(missing, n, self.copies.draw(np.where(missing, 0, neighbours[part]), rng))
            order = np.argsort(drawn, axis=1)
            targets[start : start + AT_ONCE] = np.take_along_axis(drawn, order, axis=1)
            strengths[start : start + AT_ONCE] = np.take_along_axis(weights[part], order, axis=1)
        np.save(folder / itemcf.NEIGHBOURS_FILE, targets)
        np.save(folder / itemcf.WEIGHTS_FILE, strengths)
        self._facts(itemcf.FACTS_FILE, itemcf.ItemCFFacts, folder)

    def _vector(self, folder: Path, rng: np.random.Generator) -> None:
        facts = vector.read_facts(self.bundle.folder)
        vectors = self.copies.scattered(open_array(self.bundle.path(vector.VECTORS_FILE))[:, :-1], rng)
        np.save(folder / vector.VECTORS_FILE, of_one_length(vectors))
        _with_latents(self.bundle.path(vector.TOWER_FILE), folder / vector.TOWER_FILE, len(self.before), vectors)
        tower, catalogue = OnnxUserTower(folder / vector.TOWER_FILE, limit=facts.history_limit), Catalogue.load(folder)
        asked = [RecallQuery(history, self.bundle.manifest.cutoff, 1) for history in sampled_histories(folder)]
        users = tower.vectors(asked, catalogue)[:, :-1]
        built = build_index(vectors, np.arange(len(vectors)), users, TwoTowerConfig(), seed=self.seed)
        built.save(folder, vector.INDEX_FILES, unused=1)
        described = VectorFacts(**built.facts.model_dump(), history_limit=facts.history_limit)
        (folder / vector.FACTS_FILE).write_text(described.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def _als(self, folder: Path, rng: np.random.Generator) -> None:
        np.save(folder / als.FACTORS_FILE, self.copies.scattered(open_array(self.bundle.path(als.FACTORS_FILE)), rng))
        self._copy(als.GRAM_FILE, folder)
        self._facts(als.FACTS_FILE, als.ALSFacts, folder)
        self._index(als.ALSChannel.open(folder), ALSConfig(), folder)

    def _content(self, folder: Path, rng: np.random.Generator) -> None:
        vectors = self.copies.scattered(open_array(self.bundle.path(content.VECTORS_FILE)), rng)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        np.save(folder / content.VECTORS_FILE, vectors)
        self._facts(content.FACTS_FILE, content.ContentFacts, folder)
        self._index(content.ContentChannel.open(folder), ContentConfig(), folder)

    def _index(self, channel: LinearChannel, config: ItemIndexConfig, folder: Path) -> None:
        index_channel(channel, sampled_histories(folder), config, folder, seed=self.seed)

    def _rank(self, folder: Path) -> None:
        source, base = self.bundle.folder, self.copies.base
        inputs = {node.name for node in onnx.load(source / GRAPH_FILE).graph.input}
        if inputs & set(ROW_INPUTS):
            raise CannotStart(f"{source / GRAPH_FILE}: reads rows of the catalogue; take a bundle that ranks by trees")
        store = FeatureStore.open(source)
        rating = store.rating and replace(
            store.rating, vectors=store.rating.vectors[base], biases=store.rating.biases[base]
        )
        catalogue = Catalogue.load(folder)
        items, stages, vectors = (array[base] for array in (store.items, store.stages, store.vectors))
        FeatureStore(catalogue, items, stages, vectors, store.channels, rating).save(folder)
        shutil.copy(source / GRAPH_FILE, folder / GRAPH_FILE)

    def _facts(self, name: str, kind: type[BaseModel], folder: Path) -> None:
        facts = read_facts(self.bundle.path(name), kind).model_copy(update={"items": len(self.copies)})
        (folder / name).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _copy(self, name: str, folder: Path) -> None:
        if self.bundle.has(name):
            shutil.copy(self.bundle.path(name), folder / name)


def _with_latents(source: Path, target: Path, items: int, vectors: Floats32) -> None:
    """Writes the user tower with the latent vectors of the enlarged catalogue: the first columns of the items' own."""
    graph = onnx.load(source)
    for constant in graph.graph.initializer:
        if constant.name == "latent":
            latent = numpy_helper.to_array(constant)
            if len(latent) == items:
                table = np.ascontiguousarray(vectors[:, : latent.shape[1]])
                constant.CopyFrom(numpy_helper.from_array(table, constant.name))
                onnx.save(graph, target)
                return
    raise CannotStart(f"{source}: has no table of latent vectors for {items} items; train and publish again")


def sampled_histories(folder: Path) -> Iterator[History]:
    """The sequences of users whose histories are of every length."""
    stored = StoredHistories.open(folder)
    by_length = np.argsort(np.diff(stored.indptr), kind="stable")
    for row in np.unique(np.linspace(0, len(by_length) - 1, SAMPLED_USERS).astype(np.int64)):
        yield stored.of(int(stored.user_ids[by_length[row]])).sequence()


def enlarge(bundle: Bundle, items: int, root: Path, *, seed: int) -> str:
    """Publishes a bundle of `items` items below `root`; returns its version.

    Raises CannotStart if the bundle has more items already.
    """
    n = len(Catalogue.load(bundle.folder))
    if items < n:
        raise CannotStart(f"{bundle.folder} has {n} items; name at least as many")
    copies = Copies.make(n, items, np.random.default_rng(seed))
    manifest = bundle.manifest
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as parts:
        folder = Path(parts)
        Enlargement(bundle, copies, seed).write(folder)
        facts = BundleFacts(
            manifest.purpose,
            f"{manifest.dataset}-{items}",
            manifest.cutoff,
            {},
            manifest.policy,
            manifest.feature_names,
            vector.read_facts(folder).index if manifest.index else None,
            {},
        )
        golden = partial(write_golden, policy=manifest.policy, requests=_golden(folder, manifest.cutoff))
        return publish(BundleStore(root), [folder], facts, golden=golden)


def _golden(folder: Path, cutoff: int) -> list[Request]:
    """Requests with histories of a few lengths."""
    stored = StoredHistories.open(folder)
    users = stored.user_ids[np.linspace(0, len(stored.user_ids) - 1, 5).astype(np.int64)].tolist()
    return [Request(stored.of(user), cutoff, GOLDEN_COUNT, user_id=user) for user in users]


def main() -> None:
    """Makes one bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, required=True, help="store whose released bundle is enlarged")
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--root", type=Path, required=True, help="store for the new bundle; made if need be")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    store = BundleStore(options.bundles)
    print(enlarge(store.open(store.release().current), options.items, options.root, seed=options.seed))


if __name__ == "__main__":
    main()
