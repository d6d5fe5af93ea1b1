"""Checkpoints of a running training, and the weights of a finished one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from offline.dataset.interactions import Snapshot
from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.model import Content
from offline.recall.two_tower.side_data import ItemSideData
from recsys.errors import DataMissing

CHECKPOINT_FILE = "two_tower/checkpoint.pt"
WEIGHTS_FILE = "two_tower/weights.npz"

_TRAINED = "trained_item_ids"
_FORMAT = 2
"""Raised when weights get other names, so that no checkpoint of an earlier version is continued."""
_ROWS_OF = {"id_embedding.weight": "item_ids", "id_bias.weight": "item_ids", "people.weight": "person_ids"}
"""Last part of a weight's name: what its rows stand for."""
_COLUMNS_OF = {"content_projection.weight": "content_names", "content_bias.weight": "content_names"}
"""Last part of a weight's name: what its columns stand for."""


@dataclass(frozen=True, slots=True)
class InputSchema:
    """What rows and columns of the weights stand for, so that towers of another cut-off can take them over."""

    item_ids: NDArray[np.int64]
    content_names: NDArray[np.str_]
    person_ids: NDArray[np.int64]

    @classmethod
    def of(cls, snapshot: Snapshot, content: Content, side: ItemSideData) -> InputSchema:
        """The schema of towers for `snapshot`."""
        return cls(snapshot.items.item_ids, np.asarray(content.names), side.person_ids)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def fingerprint(snapshot: Snapshot, config: TwoTowerConfig, side: ItemSideData, initial: Path | None) -> str:
    """A digest of everything that training depends on: a checkpoint of anything else is not continued.

    Raises:
        DataMissing: `initial` has no towers.
    """
    digest = hashlib.sha256(f"{_FORMAT} {config.model_dump_json()}".encode())
    for array in (snapshot.items.item_ids, snapshot.indptr, snapshot.item_ids, snapshot.timestamps, snapshot.types):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(snapshot.values.tobytes())
    for column in (side.person_ids, side.people_indptr, side.people, side.text):
        digest.update(np.ascontiguousarray(column).tobytes())
    if initial is not None:
        if not (initial / WEIGHTS_FILE).is_file():
            raise DataMissing(f"{initial / WEIGHTS_FILE}: no towers to continue; train the earlier cut-off first")
        digest.update((initial / WEIGHTS_FILE).read_bytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Replaces the checkpoint in one rename, so a killed training leaves a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_checkpoint(path: Path, expected: str) -> dict[str, Any] | None:
    """The checkpoint with the fingerprint `expected`; None where there is none, or one of another training."""
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state if state["fingerprint"] == expected else None


def save_weights(path: Path, model: nn.Module, schema: InputSchema, trained: NDArray[np.bool_]) -> None:
    """Writes the weights by name, with what their rows and columns stand for, and the items whose id was `trained`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    np.savez(path, **{**arrays, **schema.arrays(), _TRAINED: schema.item_ids[trained]})


def load_weights(path: Path, model: nn.Module, schema: InputSchema) -> NDArray[np.bool_]:
    """Takes over the weights of an earlier cut-off; new items, genres and people keep what they began with.

    Returns bool[items]: whether the id of the item was trained.

    Raises:
        DataMissing: they are of towers of another kind, shape or version.
    """
    state = model.state_dict()
    with np.load(path, allow_pickle=False) as saved:
        for name, value in state.items():
            if name not in saved:
                raise DataMissing(f"{path}: no {name}, which this configuration needs; train the earlier cut-off again")
            old = saved[name]
            taken = _taken_over(name, value.cpu().numpy().copy(), old, saved, schema)
            if taken is None:
                raise DataMissing(
                    f"{path}: {name} is {list(old.shape)}, this configuration needs {list(value.shape)}; "
                    "train the earlier cut-off again with the same configuration"
                )
            state[name] = torch.from_numpy(np.ascontiguousarray(taken))
        trained = np.isin(schema.item_ids, saved[_TRAINED])
    model.load_state_dict(state)
    return trained


def _taken_over(
    name: str, new: NDArray[Any], old: NDArray[Any], saved: Mapping[str, NDArray[Any]], schema: InputSchema
) -> NDArray[Any] | None:
    """`new` with what `old` knows; None where their shapes do not fit."""
    last = ".".join(name.split(".")[-2:])
    wanted = schema.arrays()
    if last in _ROWS_OF and old.shape[1:] == new.shape[1:] and old.ndim == new.ndim:
        here, there = _matches(wanted[_ROWS_OF[last]], saved[_ROWS_OF[last]])
        new[here] = old[there]
        return new
    if last in _COLUMNS_OF and old.shape[:1] == new.shape[:1] and old.ndim == new.ndim:
        here, there = _matches(wanted[_COLUMNS_OF[last]], saved[_COLUMNS_OF[last]])
        new[:, here] = old[:, there]
        return new
    return old if old.shape == new.shape else None


def _matches(wanted: NDArray[Any], found: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in `wanted` and in `found` of the values that both have."""
    _, in_wanted, in_found = np.intersect1d(wanted, found, return_indices=True)
    return in_wanted.astype(np.int64), in_found.astype(np.int64)
