"""The vector channel of a catalogue with further items, by the towers of the released bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from offline.dataset.interactions import Snapshot
from offline.recall import two_tower
from offline.recall.text import documents, local, vectors
from offline.recall.two_tower.checkpoint import WEIGHTS_FILE
from offline.recall.two_tower.side_data import ItemSideData
from offline.steps.workspace import RECEIPT, Step, Workspace
from offline.workflow.config import OfflineConfig
from recsys.bundle import Bundle
from recsys.bundle.store import sha256_of
from recsys.domain import Ids
from recsys.errors import DataMissing

TEXT = "text"
"""Step of the text vectors."""


def index_vectors(
    bundle: Bundle, snapshot: Snapshot, config: OfflineConfig, folder: Path, *, text: Path | None
) -> None:
    """Writes the vector channel's files below `folder`. Genres and people that training did not know say nothing.

    `text` holds the text vectors of the snapshot's items, where the towers read them.
    Raises DataMissing where the bundle's towers have another shape than `config` says.
    """
    with np.load(bundle.path(WEIGHTS_FILE), allow_pickle=False) as weights:
        names, person_ids = weights["content_names"].tolist(), weights["person_ids"]
    side = _of_known_people(ItemSideData.of(snapshot.catalogue, text), person_ids)
    known = _of_known_genres(snapshot, [name.removeprefix("genre ") for name in names])
    two_tower.index_items(known, config.two_tower, folder, trained=bundle.folder, side=side)


def index_texts(
    workspace: Workspace, bundle: Bundle, snapshot: Snapshot, config: OfflineConfig, *, tables: Step
) -> Step | None:
    """Text vectors of the snapshot's items, in the space that the towers learned in; None where they read none.

    Raises DataMissing where those of training are gone.
    """
    if not config.recall.reads_text or not bundle.has(WEIGHTS_FILE):
        return None
    before = _texts_of_training(workspace.root, bundle)
    return workspace.run(
        TEXT,
        lambda folder: vectors.text_vectors(
            tables.folder,
            snapshot.catalogue,
            folder,
            config.text,
            cache=workspace.root.with_name("text-vectors.sqlite"),
            earlier=before.folder,
        ),
        config=config.text,
        facts=["index", bundle.version, snapshot.items.item_ids.tolist()],
        inputs=[tables, before],
        code=[vectors, documents, local],
    )


def _texts_of_training(root: Path, bundle: Bundle) -> Step:
    """The step that made them: the input of the step that has the bundle's very weights."""
    wanted = bundle.manifest.files[WEIGHTS_FILE].sha256
    for receipt in root.glob(f"*/{RECEIPT}"):
        weights = receipt.parent / WEIGHTS_FILE
        if not weights.is_file() or sha256_of(weights) != wanted:
            continue
        for name in json.loads(receipt.read_text("utf-8"))["inputs"]:
            kind, _, key = name.partition("-")
            if kind == TEXT and (root / name / RECEIPT).is_file():
                return Step(TEXT, key, root / name, reused=True)
    raise DataMissing(
        f"{root}: the text vectors that the towers of bundle {bundle.version} learned with are not there any more, so "
        "no new text can be placed among them; train again with `python -m offline run`"
    )


def _of_known_genres(snapshot: Snapshot, names: list[str]) -> Snapshot:
    items = snapshot.items
    columns = [column for column, name in enumerate(items.genre_names) if name in names]
    genres, kept = items.genres[:, columns], tuple(items.genre_names[column] for column in columns)
    return replace(snapshot, items=replace(items, genres=genres, genre_names=kept))


def _of_known_people(side: ItemSideData, person_ids: Ids) -> ItemSideData:
    known = np.isin(side.person_ids, person_ids)
    kept = known[side.people]
    before = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
    rows = np.cumsum(known) - 1
    return replace(
        side,
        person_ids=side.person_ids[known],
        people_indptr=before[side.people_indptr],
        people=rows[side.people[kept]].astype(np.int64),
    )
