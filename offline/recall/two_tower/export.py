"""From trained towers to the files of the vector channel, each checked against what it stands for."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline.dataset.interactions import Snapshot
from offline.recall.item_index import build_index, of_one_length
from offline.recall.two_tower.batches import Examples, gather_histories
from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.corpus import Corpus
from offline.recall.two_tower.model import Histories, TwoTower
from offline.recall.two_tower.sequence import SequenceTower
from recall_server.channels.vector import FACTS_FILE, INDEX_FILES, TOWER_FILE, VECTORS_FILE, OnnxUserTower, VectorFacts
from recsys.errors import ContractBroken

USERS_FILE = "two_tower/users.parquet"
ITEMS_FILE = "two_tower/items.parquet"

_INPUTS = ("history_row", "history_value", "history_age", "history_mask")
_OPSET = 17
_CHUNK = 256
_WRITTEN_USERS = 20_000
"""Vectors of at most so many users are written for people; servers make theirs from histories."""


class ServedUserTower(nn.Module):
    """The user tower with the latent vectors of items as a constant: the graph that is served."""

    def __init__(self, model: TwoTower | SequenceTower, latent: NDArray[np.float32]) -> None:
        super().__init__()
        self.users = model.users
        self.latent: Tensor
        self.register_buffer("latent", torch.from_numpy(latent))

    def forward(self, rows: Tensor, values: Tensor, ages: Tensor, weights: Tensor) -> Tensor:
        """User vectors [q, dim] of histories [q, L], see `Histories`; the last dimension is 0, see `of_one_length`."""
        vectors = self.users(self.latent[rows], Histories(rows, values, ages, weights))
        return torch.cat([vectors, torch.zeros_like(vectors[:, :1])], dim=1)


def export_towers(
    model: TwoTower | SequenceTower, snapshot: Snapshot, corpus: Corpus, config: TwoTowerConfig, folder: Path
) -> None:
    """Writes the files of `VectorChannel`, and all vectors as Parquet for people.

    Raises:
        ContractBroken: the ONNX tower differs from PyTorch's, or the index cannot reach the recall asked for.
    """
    for name in (FACTS_FILE, USERS_FILE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    model.eval()
    items = of_one_length(model.item_vectors(corpus.latest, corpus.known))
    tower = ServedUserTower(model, np.ascontiguousarray(items[:, : model.latent_size])).eval()
    n_users = len(snapshot.user_ids)
    written = min(n_users, _WRITTEN_USERS)
    rows = np.arange(written) * n_users // written
    users = user_vectors(tower, corpus, snapshot.cutoff, rows, limit=config.history_limit)
    export_tower(tower, folder / TOWER_FILE)
    check_parity(tower, folder / TOWER_FILE, _sample(corpus, snapshot.cutoff, config), config.parity_tolerance)
    np.save(folder / VECTORS_FILE, items)
    # The last dimension only gives all vectors one length, and users have nothing there.
    built = build_index(items[:, :-1], np.arange(len(items)), users[:, :-1], config, seed=config.seed)
    built.save(folder, INDEX_FILES, unused=1)
    facts = VectorFacts(**built.facts.model_dump(), history_limit=config.history_limit)
    (folder / FACTS_FILE).write_text(facts.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _write_vectors(folder / USERS_FILE, "user_id", snapshot.user_ids[rows], users)
    _write_vectors(folder / ITEMS_FILE, "item_id", snapshot.items.item_ids, items)


@torch.no_grad()
def user_vectors(
    tower: ServedUserTower, corpus: Corpus, as_of: int, rows: NDArray[np.int64], *, limit: int
) -> NDArray[np.float32]:
    """float32[rows, dim] of the users `rows` at `as_of`; users without events get the cold vector."""
    starts, ends = corpus.events.indptr[rows], corpus.events.indptr[rows + 1]
    users = Examples(starts, ends, ends, np.full(len(rows), as_of, np.int64))
    parts = []
    for start in range(0, len(users), _CHUNK):
        chunk = users.take(np.arange(start, min(start + _CHUNK, len(users))))
        parts.append(tower(*_tensors(gather_histories(corpus.events, chunk, limit))).numpy())
    return np.concatenate(parts).astype(np.float32)


def export_tower(tower: ServedUserTower, path: Path) -> None:
    """Writes the user tower as an ONNX graph with free batch size and history length."""
    example = (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3))
    with warnings.catch_warnings():
        # The exporter that needs no further package is the one that PyTorch calls deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tower,
            example,
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=list(_INPUTS),
            output_names=["vector"],
            dynamic_axes={**{name: {0: "queries", 1: "events"} for name in _INPUTS}, "vector": {0: "queries"}},
        )


@torch.no_grad()
def check_parity(tower: ServedUserTower, path: Path, histories: Histories, tolerance: float) -> float:
    """The largest difference between the graph at `path` and `tower`, with and without events.

    Raises:
        ContractBroken: it is larger than `tolerance`, or not a number.
    """
    empty = Histories(*(part[:1, :1].clone() for part in _tensors(histories)))
    empty.weights.zero_()
    served = OnnxUserTower(path, limit=histories.rows.shape[1])
    largest = 0.0
    for batch in (histories, Histories(*(part[:1] for part in _tensors(histories))), empty):
        inputs = dict(zip(_INPUTS, (part.numpy() for part in _tensors(batch)), strict=True))
        difference = np.abs(served.run(inputs) - tower(*_tensors(batch)).numpy())
        largest = max(largest, float(difference.max())) if np.isfinite(difference).all() else float("nan")
    if not largest <= tolerance:
        raise ContractBroken(
            f"{path}: differs from PyTorch by {largest:.2e}, at most {tolerance:.0e} is allowed; "
            "lower learning_rate, or check the versions of torch and onnxruntime"
        )
    return largest


def _sample(corpus: Corpus, as_of: int, config: TwoTowerConfig) -> Histories:
    """Histories of some users, long and short ones."""
    indptr = corpus.events.indptr
    rows = np.unique(np.linspace(0, len(indptr) - 2, 64).astype(np.int64))
    users = Examples(indptr[rows], indptr[rows + 1], indptr[rows + 1], np.full(len(rows), as_of, np.int64))
    return gather_histories(corpus.events, users, config.history_limit)


def _tensors(histories: Histories) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return histories.rows, histories.values, histories.ages, histories.weights


def _write_vectors(path: Path, key: str, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({key: pa.array(ids), "vector": values}), path)
