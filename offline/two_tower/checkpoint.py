"""Checkpoints of a running training, and the weights of a finished one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from offline.interactions import Snapshot
from offline.two_tower.config import TwoTowerConfig
from offline.two_tower.model import TwoTower
from recsys.errors import DataMissing

CHECKPOINT_FILE = "two_tower/checkpoint.pt"
WEIGHTS_FILE = "two_tower/weights.npz"

_ITEMS, _COLUMNS = "item_ids", "content_names"
_PER_ITEM = ("items.identity.weight", "items.identity_bias.weight")
_PER_COLUMN = ("items.described.weight", "items.described_bias.weight")


def fingerprint(snapshot: Snapshot, config: TwoTowerConfig, initial: Path | None) -> str:
    """A digest of everything that training depends on: a checkpoint of anything else is not continued.

    Raises:
        DataMissing: `initial` has no towers.
    """
    digest = hashlib.sha256(config.model_dump_json().encode())
    for array in (snapshot.items.item_ids, snapshot.indptr, snapshot.item_ids, snapshot.timestamps, snapshot.types):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(snapshot.values.tobytes())
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


def save_weights(path: Path, model: TwoTower, item_ids: NDArray[np.int64], columns: tuple[str, ...]) -> None:
    """Writes the weights by name, with what their rows and columns stand for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    np.savez(path, **{**arrays, _ITEMS: item_ids, _COLUMNS: np.asarray(columns)})


def load_weights(path: Path, model: TwoTower, item_ids: NDArray[np.int64], columns: tuple[str, ...]) -> None:
    """Takes over the weights of an earlier cut-off; items and genres that are new keep what they were born with.

    Raises:
        DataMissing: they are of towers of another shape.
    """
    state = model.state_dict()
    with np.load(path, allow_pickle=False) as saved:
        rows = _matches(item_ids, saved[_ITEMS])
        places = _matches(np.asarray(columns), saved[_COLUMNS])
        for name, value in state.items():
            new, old = value.numpy().copy(), saved[name] if name in saved else np.empty(0)
            if name in _PER_ITEM and old.shape[1:] == new.shape[1:]:
                new[rows[0]] = old[rows[1]]
            elif name in _PER_COLUMN and old.shape[:1] == new.shape[:1]:
                new[:, places[0]] = old[:, places[1]]
            elif old.shape == new.shape:
                new = old
            else:
                raise DataMissing(
                    f"{path}: {name} is {list(old.shape)}, this configuration needs {list(new.shape)}; "
                    "train the earlier cut-off again with the same configuration"
                )
            state[name] = torch.from_numpy(np.ascontiguousarray(new))
    model.load_state_dict(state)


def _matches(wanted: NDArray[Any], found: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions in `wanted` and in `found` of the values that both have."""
    _, in_wanted, in_found = np.intersect1d(wanted, found, return_indices=True)
    return in_wanted.astype(np.int64), in_found.astype(np.int64)
