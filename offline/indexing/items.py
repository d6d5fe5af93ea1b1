"""The items that can be recommended now, with the events of the released bundle."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from gateway.bundle.state import StoredHistories
from offline.dataset.interactions import Dataset, Items, Snapshot
from offline.indexing.rows import SHOWN
from recsys.bundle import Bundle
from recsys.catalogue import NO_YEAR, Catalogue
from recsys.domain import Ids

log = logging.getLogger(__name__)


def indexed_snapshot(bundle: Bundle, tables: Path, as_of: int) -> Snapshot:
    """The events of `bundle` with its items, as the tables describe them now, and all others available by `as_of`."""
    manifest = bundle.manifest
    items = Dataset.load(manifest.dataset, tables).items
    known = np.isin(items.item_ids, Catalogue.load(bundle.folder).item_ids)
    items = items.take(known | (items.available_from <= as_of))
    named = np.flatnonzero(items.genres.any(axis=0))
    items = replace(
        items, genres=items.genres[:, named], genre_names=tuple(items.genre_names[column] for column in named)
    )
    stored = StoredHistories.open(bundle.folder)
    return Snapshot(
        manifest.dataset,
        manifest.cutoff,
        items,
        np.array(stored.user_ids),
        np.array(stored.indptr),
        np.array(stored.item_ids),
        np.array(stored.timestamps),
        np.array(stored.types),
        np.array(stored.values),
    )


def new_items(bundle: Bundle, items: Items) -> Items:
    """Those that the bundle does not have."""
    return items.take(~np.isin(items.item_ids, Catalogue.load(bundle.folder).item_ids))


def warn_of_undescribed(items: Items) -> Ids:
    """Logs which items have neither a genre nor a year, and returns their ids: no tower can place them."""
    silent = np.flatnonzero(~items.genres.any(axis=1) & (items.years == NO_YEAR))
    if len(silent):
        shown = ", ".join(map(str, items.keys[silent[:SHOWN]].tolist()))
        more = ", …" if len(silent) > SHOWN else ""
        log.warning(
            "index: %d new items have neither a genre nor a year (%s%s): they are treated as unknown items; "
            "describe them and index again",
            len(silent),
            shown,
            more,
        )
    return items.item_ids[silent]
