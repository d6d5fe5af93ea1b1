"""Every file of the bundle with further items: moved to the new rows, made again of metadata, or copied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from gateway.pipeline.rerank import BONUS_FILE
from offline.dataset.interactions import Snapshot
from offline.indexing.graph import extend_graph
from offline.indexing.rows import RowMap
from offline.indexing.towers import index_vectors
from offline.publish.gateway_files import export_gateway
from offline.publish.publish import INDEX_FILE, REPORT_FOLDER
from offline.ranking.samples import feature_store
from offline.recall import content
from offline.recall.als import ALSConfig
from offline.recall.content import ContentConfig
from offline.recall.item_index import histories_of, index_channel
from offline.recall.two_tower import TwoTowerConfig
from rank_server.scoring import GRAPH_FILE
from recall_server.channels import als, itemcf, popularity
from recall_server.channels.content import ContentChannel
from recall_server.channels.files import read_facts
from recall_server.channels.popularity import PopularityScores
from recall_server.channels.vector import VectorChannel
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.errors import DataError
from recsys.features import FeatureStore
from recsys.features.rating import RatingModel

_RECORDED = "golden/"
"""Folder whose files are made when the bundle is published: of every role that it has, known here or not."""


@dataclass(frozen=True)
class Indexing:
    """A released bundle, and the items that it is to have."""

    bundle: Bundle
    snapshot: Snapshot
    """The bundle's events with all items."""
    als: ALSConfig
    content: ContentConfig
    towers: TwoTowerConfig
    tables: Path
    text: Path | None

    @cached_property
    def rows(self) -> RowMap:
        """From the bundle's rows to the snapshot's."""
        return RowMap.of(Catalogue.load(self.bundle.folder).item_ids, self.snapshot.catalogue.item_ids)

    def write(self, folder: Path) -> None:
        """Writes the whole bundle below `folder`, but for golden requests and manifest.

        Raises DataError for a bundle with files of which nothing is known here.
        """
        self.snapshot.catalogue.save(folder)
        self.snapshot.texts.save(folder)
        makers: Mapping[str, Callable[[Path], None]] = {
            "popularity": self._popularity,
            "itemcf": self._itemcf,
            "als": self._als,
            ContentChannel.name: self._content,
            VectorChannel.name: self._vector,
        }
        for name, make in makers.items():
            if name in self.bundle.manifest.roles:
                (folder / name).mkdir(exist_ok=True)
                make(folder)
        self._ranker(folder)
        self._gateway(folder)
        self._report(folder)
        self._check_complete(folder)

    def _popularity(self, folder: Path) -> None:
        for file in (popularity.SCORES_FILE, popularity.RETURNING_SCORES_FILE):
            if self.bundle.has(file):
                np.save(folder / file, self.rows.moved(np.load(self.bundle.path(file), allow_pickle=False)))
        scores = np.load(folder / popularity.SCORES_FILE, allow_pickle=False)
        scales = PopularityScores.of(scores, self.snapshot.catalogue).genre_scales
        np.save(folder / popularity.GENRE_SCALES_FILE, scales)
        self._copy(popularity.RETURNING_FACTS_FILE, folder)

    def _itemcf(self, folder: Path) -> None:
        """A new item links to nothing: its links are to the row after the last, with weight 0."""
        rows, neighbours = self.rows, np.load(self.bundle.path(itemcf.NEIGHBOURS_FILE), allow_pickle=False)
        moved = rows.moved(rows.renumbered(neighbours), len(self.snapshot.catalogue))
        np.save(folder / itemcf.NEIGHBOURS_FILE, moved)
        weights = np.load(self.bundle.path(itemcf.WEIGHTS_FILE), allow_pickle=False)
        np.save(folder / itemcf.WEIGHTS_FILE, rows.moved(weights))
        self._facts(itemcf.FACTS_FILE, itemcf.ItemCFFacts, folder)

    def _als(self, folder: Path) -> None:
        """A new item has no factors: the channel never returns it, and it is not in the channel's index."""
        factors = np.load(self.bundle.path(als.FACTORS_FILE), allow_pickle=False)
        np.save(folder / als.FACTORS_FILE, self.rows.moved(factors))
        self._copy(als.GRAM_FILE, folder)
        self._facts(als.FACTS_FILE, als.ALSFacts, folder)
        channel = als.ALSChannel.open(folder, exact=True)
        index_channel(channel, histories_of(self.snapshot), self.als, folder, seed=self.als.seed)

    def _content(self, folder: Path) -> None:
        content.train(self.snapshot, self.content, folder, tables=self.tables)

    def _vector(self, folder: Path) -> None:
        index_vectors(self.bundle, self.snapshot, self.towers, folder, text=self.text)

    def _ranker(self, folder: Path) -> None:
        """Old items keep their features; new ones have those of an item without events."""
        source, rows = self.bundle.folder, self.rows
        extend_graph(source / GRAPH_FILE, folder / GRAPH_FILE, rows)
        before = FeatureStore.open(source)
        rating = before.rating and _moved_rating(before.rating, rows)
        now = feature_store(self.snapshot, self.bundle.manifest.policy, rating=rating)
        kept = ~rows.new
        for array, old in ((now.items, before.items), (now.stages, before.stages), (now.vectors, before.vectors)):
            array[kept] = old[rows.before[kept]]
        now.save(folder)
        self._copy("rank/rating/facts.json", folder)

    def _gateway(self, folder: Path) -> None:
        export_gateway(self.snapshot, folder, self.tables, folder)
        rerank = self.bundle.manifest.policy.rerank
        if rerank is not None and self.bundle.has(BONUS_FILE):
            bonus = np.load(self.bundle.path(BONUS_FILE), allow_pickle=False)
            np.save(folder / BONUS_FILE, self.rows.moved(bonus, rerank.exposure))

    def _report(self, folder: Path) -> None:
        """The figures stay those of the bundle that was trained."""
        for file in self.bundle.manifest.files:
            if file.startswith(f"{REPORT_FOLDER}/"):
                self._copy(file, folder)
        new = self.snapshot.items.take(self.rows.new)
        facts = {"indexed": self.bundle.version, "new_items": dict(zip(new.keys, new.titles, strict=True))}
        (folder / INDEX_FILE).parent.mkdir(exist_ok=True)
        (folder / INDEX_FILE).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", "utf-8")

    def _facts(self, file: str, kind: type[BaseModel], folder: Path) -> None:
        facts = read_facts(self.bundle.path(file), kind)
        changed = facts.model_copy(update={"items": len(self.snapshot.catalogue)})
        (folder / file).write_text(changed.model_dump_json(indent=2) + "\n", "utf-8")

    def _copy(self, file: str, folder: Path) -> None:
        if self.bundle.has(file):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.bundle.path(file), folder / file)

    def _check_complete(self, folder: Path) -> None:
        wanted = [file for file in self.bundle.manifest.files if not file.startswith(_RECORDED)]
        missing = [file for file in wanted if not (folder / file).is_file()]
        if missing:
            raise DataError(
                f"bundle {self.bundle.version} has {', '.join(missing)}, which cannot be made for more items: the "
                "index does not support it, or the tables lack what it is made of; give the --metadata-file that the "
                "bundle was trained with, or train again with `python -m offline run`"
            )


def _moved_rating(model: RatingModel, rows: RowMap) -> RatingModel:
    """An item that nobody rated has a vector of zeros."""
    return replace(model, vectors=rows.moved(model.vectors), biases=rows.moved(model.biases))
