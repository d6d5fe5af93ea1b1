"""Vector: a user tower turns the history into a vector; its inner products with item vectors score the items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import onnxruntime
import onnxruntime.capi.onnxruntime_pybind11_state as onnx_errors
from numpy.typing import NDArray
from pydantic import Field

from recall_server.channels import files
from recall_server.channels.base import Channel
from recall_server.channels.nearest import IndexFiles, ItemIndex, ItemSearch, SearchFacts
from recsys.allowed import Allowed
from recsys.arrays import open_array
from recsys.bundle import Bundle
from recsys.catalogue import Catalogue
from recsys.domain import EVENT_WEIGHTS, RecallQuery, RecallResult
from recsys.errors import BundleDamaged, BundleMismatch

FACTS_FILE = "vector/facts.json"
INDEX_FILE = "vector/index.hnsw"
VECTORS_FILE = "vector/item_vectors.npy"
TOWER_FILE = "vector/user_tower.onnx"
FILES = (FACTS_FILE, INDEX_FILE, VECTORS_FILE, TOWER_FILE)
INDEX_FILES = IndexFiles(FACTS_FILE, INDEX_FILE, "vector/query_map.npy")

_UNREADABLE_GRAPH = (
    onnx_errors.Fail,
    onnx_errors.InvalidArgument,
    onnx_errors.InvalidGraph,
    onnx_errors.InvalidProtobuf,
    onnx_errors.NoSuchFile,
    onnx_errors.NotImplemented,
    onnx_errors.RuntimeException,
)


class VectorFacts(SearchFacts):
    """What the files are; `facts.json`."""

    history_limit: int = Field(ge=1, description="latest events that the user tower reads")


class OnnxUserTower:
    """The ONNX user tower: histories in, vectors out. One thread, no spinning, because processes share few cores."""

    def __init__(self, path: Path, *, limit: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._limit = limit

    @property
    def dim(self) -> object:
        """The vector width that the graph declares."""
        return self._session.get_outputs()[0].shape[-1]

    def vectors(self, queries: Sequence[RecallQuery], catalogue: Catalogue) -> NDArray[np.float32]:
        """float32[queries, dim]; items that the catalogue does not know are left out of the histories.

        One query at a time: padding to the longest history of a batch changes the last bits of all its vectors, and
        nobody's answer may depend on who else is in the batch. A batch of 16 would take a fifth less time.
        """
        return np.concatenate([self.run(self.inputs([query], catalogue)) for query in queries])

    def run(self, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """float32[q, dim] of what `inputs` returns."""
        vectors: NDArray[np.float32] = self._session.run(["vector"], inputs)[0]
        return vectors

    def inputs(self, queries: Sequence[RecallQuery], catalogue: Catalogue) -> dict[str, NDArray[Any]]:
        """The graph's inputs, [q, L] each: row, value (NaN: none), age in seconds and weight (0: no event)."""
        rows = [catalogue.rows(query.history.item_ids) for query in queries]
        kept = [np.flatnonzero(row >= 0)[-self._limit :] for row in rows]
        shape = (len(queries), max(1, *(len(index) for index in kept)))
        inputs: dict[str, NDArray[Any]] = {
            "history_row": np.zeros(shape, np.int64),
            "history_value": np.full(shape, np.nan, np.float32),
            "history_age": np.zeros(shape, np.float32),
            "history_mask": np.zeros(shape, np.float32),
        }
        for i, (query, row, index) in enumerate(zip(queries, rows, kept, strict=True)):
            if not len(index):
                continue
            history = query.history
            inputs["history_row"][i, -len(index) :] = row[index]
            inputs["history_value"][i, -len(index) :] = history.values[index]
            inputs["history_age"][i, -len(index) :] = query.as_of - history.timestamps[index]
            inputs["history_mask"][i, -len(index) :] = EVENT_WEIGHTS[history.types[index]]
        return inputs


class VectorChannel(Channel):
    """Searches the index, and exactly if few items are allowed or the index returns too few."""

    name: ClassVar[str] = "vector"
    history_limit: ClassVar[int | None] = 200

    def __init__(self, catalogue: Catalogue, tower: OnnxUserTower, nearest: ItemSearch) -> None:
        """`nearest`: over vectors as long as those of the tower."""
        self.catalogue = catalogue
        self._tower = tower
        self.nearest = nearest

    @classmethod
    def open(cls, folder: Path, *, exact: bool = False) -> Self:
        """Reads the catalogue and the files below `folder`; with `exact` the index is not used.

        Raises:
            BundleDamaged: a file cannot be read.
            BundleMismatch: files do not fit each other or the catalogue.
        """
        catalogue, facts = Catalogue.load(folder), read_facts(folder)
        vectors = open_array(folder / VECTORS_FILE)
        expected = (len(catalogue), facts.index.dim)
        if vectors.shape != expected or vectors.dtype != np.float32 or facts.index.count != len(catalogue):
            raise BundleMismatch(
                f"{folder / VECTORS_FILE}: {vectors.dtype}{list(vectors.shape)}, expected float32{list(expected)} to "
                f"fit the catalogue and {FACTS_FILE} (count {facts.index.count}); train and publish again"
            )
        tower = _open_tower(folder / TOWER_FILE, facts)
        index = None if exact else ItemIndex.open(folder, INDEX_FILES, facts, vectors)
        return cls(catalogue, tower, ItemSearch(vectors, index=index))

    @classmethod
    def load(cls, bundle: Bundle) -> Self:
        """Loads the channel from a verified bundle whose manifest describes the same index."""
        for file in FILES:
            bundle.path(file)
        found, expected = read_facts(bundle.folder).index, bundle.manifest.index
        if found != expected:
            raise BundleMismatch(
                f"{bundle.folder / FACTS_FILE}: index {found.model_dump()}, the manifest says "
                f"{expected.model_dump() if expected else None}; publish again"
            )
        return cls.open(bundle.folder)

    def search(self, queries: Sequence[RecallQuery], allowed: Sequence[Allowed]) -> list[RecallResult]:
        """Runs the tower for each user, then searches for all of them."""
        if not queries:
            return []
        users = self._tower.vectors(queries, self.catalogue)
        found = self.nearest.best(users, [query.count for query in queries], allowed)
        return [RecallResult(self.catalogue.item_ids[rows], scores) for rows, scores in found]


def read_facts(folder: Path) -> VectorFacts:
    """What `facts.json` says; raises BundleDamaged."""
    return files.read_facts(folder / FACTS_FILE, VectorFacts)


def _open_tower(path: Path, facts: VectorFacts) -> OnnxUserTower:
    """The user tower; raises BundleMismatch unless its vectors are as wide as those of the items."""
    try:
        tower = OnnxUserTower(path, limit=facts.history_limit)
    except _UNREADABLE_GRAPH as error:
        raise BundleDamaged(f"{path}: onnxruntime cannot read it ({error}); train and publish again") from error
    if tower.dim != facts.index.dim:
        raise BundleMismatch(
            f"{path}: user vectors of {tower.dim} dimensions, items have {facts.index.dim}; train and publish again"
        )
    return tower
