"""The gateway's own files of a bundle: histories, user keys, the popularity list. gRPC-free; publishing writes them.

gateway/user_keys_{starts,text}.npy       users whose key is not a number (see `recsys.arrays.Strings`)
gateway/user_ids.npy                     int64, their ids
gateway/popular_item_ids.npy             int64, most popular first (see `gateway.pipeline.fallback`)
gateway/histories/user_ids.npy           int64[users], ascending
gateway/histories/indptr.npy             int64[users + 1]: the events of row u are at indptr[u]:indptr[u + 1]
gateway/histories/{item_ids,timestamps,types,values}.npy    int64, int64, int8, float32; oldest first per user
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline import fallback
from recsys import catalogue
from recsys.arrays import Strings, open_array, string_files
from recsys.domain import History, Ids
from recsys.errors import BundleDamaged

USER_KEYS, USER_IDS_FILE = "gateway/user_keys", "gateway/user_ids.npy"
HISTORIES_FOLDER = "gateway/histories"


@dataclass(frozen=True, slots=True)
class StoredHistories:
    """Events of all users: one row per user in order of user id, oldest event first."""

    user_ids: Ids
    indptr: Ids
    item_ids: Ids
    timestamps: Ids
    types: NDArray[np.int8]
    values: NDArray[np.float32]

    def of(self, user_id: int) -> History:
        """All stored events of one user, oldest first; empty for a user without events."""
        row = int(np.searchsorted(self.user_ids, user_id))
        if row == len(self.user_ids) or self.user_ids[row] != user_id:
            return History.empty()
        events = slice(int(self.indptr[row]), int(self.indptr[row + 1]))
        return History(self.item_ids[events], self.timestamps[events], self.types[events], self.values[events])

    def save(self, folder: Path) -> None:
        """Writes the arrays below `folder`."""
        (folder / HISTORIES_FOLDER).mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / HISTORIES_FOLDER / f"{name}.npy", getattr(self, name))

    @classmethod
    def open(cls, folder: Path) -> StoredHistories:
        """Memory-maps what `save` wrote: only what is used is read.

        Raises:
            BundleDamaged: the arrays do not fit together.
        """
        paths = {name: folder / HISTORIES_FOLDER / f"{name}.npy" for name in _ARRAYS}
        arrays = {name: open_array(path) for name, path in paths.items()}
        events = {len(arrays[name]) for name in ("item_ids", "timestamps", "types", "values")}
        if len(arrays["indptr"]) != len(arrays["user_ids"]) + 1 or events != {int(arrays["indptr"][-1])}:
            raise BundleDamaged(
                f"{folder / HISTORIES_FOLDER}: {len(arrays['user_ids'])} users, {len(arrays['indptr'])} offsets and "
                f"{sorted(events)} events do not fit together; publish the bundle again"
            )
        return cls(**arrays)


_ARRAYS = tuple(field.name for field in fields(StoredHistories))

FILES = (
    *catalogue.FILES,
    *catalogue.TEXT_FILES,
    fallback.FILE,
    *string_files(USER_KEYS),
    USER_IDS_FILE,
    *(f"{HISTORIES_FOLDER}/{name}.npy" for name in _ARRAYS),
)
"""Every file of role `gateway`, relative to the bundle."""


def write_users(folder: Path, user_ids: Ids, user_keys: Sequence[str]) -> None:
    """Writes ids and keys, two parallel lists, of the users whose key is not a number."""
    (folder / USER_IDS_FILE).parent.mkdir(parents=True, exist_ok=True)
    Strings.of(user_keys).save(folder / USER_KEYS)
    np.save(folder / USER_IDS_FILE, np.asarray(user_ids, np.int64))


def read_users(folder: Path) -> dict[str, int]:
    """Id by key, as `write_users` wrote them."""
    return dict(zip(Strings.open(folder / USER_KEYS), open_array(folder / USER_IDS_FILE).tolist(), strict=True))


def write_gateway_files(
    folder: Path, *, histories: StoredHistories, user_keys: dict[str, int], popular_item_ids: Ids
) -> None:
    """Writes all of `FILES` but the catalogue's. `user_keys`: id by key, for keys that are not numbers."""
    histories.save(folder)
    write_users(folder, np.fromiter(user_keys.values(), np.int64, len(user_keys)), list(user_keys))
    np.save(folder / fallback.FILE, np.asarray(popular_item_ids, np.int64))
