"""The vector channel of a catalogue with further items, by the towers of the released bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from offline.dataset.interactions import Snapshot
from offline.recall import two_tower
from offline.recall.two_tower import TwoTowerConfig
from offline.recall.two_tower.checkpoint import WEIGHTS_FILE
from offline.recall.two_tower.side_data import ItemSideData
from recsys.bundle import Bundle
from recsys.domain import Ids


def index_vectors(
    bundle: Bundle, snapshot: Snapshot, config: TwoTowerConfig, folder: Path, *, text: Path | None
) -> None:
    """Writes the vector channel's files below `folder`. Genres and people that training did not have are ignored.

    `text` holds the text vectors of the snapshot's items, where the towers read them.
    Raises DataMissing where the bundle's towers have another shape than that of `config`.
    """
    with np.load(bundle.path(WEIGHTS_FILE), allow_pickle=False) as weights:
        names, person_ids = weights["content_names"].tolist(), weights["person_ids"]
    side = _of_known_people(ItemSideData.of(snapshot.catalogue, text), person_ids)
    known = _of_known_genres(snapshot, [name.removeprefix("genre ") for name in names])
    two_tower.index_items(known, config, folder, trained=bundle.folder, side=side)


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
