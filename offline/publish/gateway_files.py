"""The gateway's files of a bundle: histories, keys of users, the popularity list."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gateway.bundle.state import StoredHistories, write_gateway_files
from offline.dataset.interactions import Snapshot
from offline.dataset.tables import IdTables
from recall_server.channels.popularity import PopularityChannel
from recsys.domain import History, RecallQuery
from recsys.identity import FIRST_ASSIGNED


def export_gateway(snapshot: Snapshot, recall: Path, tables: Path, folder: Path) -> None:
    """Writes what the gateway serves of `snapshot` below `folder`; users who came later are not among the keys.

    `recall` holds the files of the popularity channel, `tables` the id tables.
    """
    popularity, users = PopularityChannel.open(recall), IdTables.load(tables).users
    everything = RecallQuery(History.empty(), snapshot.cutoff, max(1, len(snapshot.catalogue)))
    assigned = snapshot.user_ids[snapshot.user_ids >= FIRST_ASSIGNED]
    write_gateway_files(
        folder,
        histories=StoredHistories(
            snapshot.user_ids,
            snapshot.indptr,
            snapshot.item_ids,
            snapshot.timestamps,
            snapshot.types.astype(np.int8, copy=False),
            snapshot.values,
        ),
        user_keys={users.key(int(number)): int(number) for number in assigned},
        popular_item_ids=popularity.recall([everything])[0].item_ids,
    )
