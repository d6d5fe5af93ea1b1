"""Vector: a user tower turns the history into a vector; its inner products with item vectors score the items."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import hnswlib
import numpy as np
import onnxruntime
import onnxruntime.capi.onnxruntime_pybind11_state as onnx_errors
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recall_server.channels.base import Channel
from recsys.allowed import Allowed
from recsys.arrays import open_array
from recsys.bundle import Bundle, IndexFacts
from recsys.catalogue import Catalogue
from recsys.domain import EVENT_WEIGHTS, RecallQuery, RecallResult, Scores
from recsys.errors import BundleDamaged, BundleMismatch
from recsys.ordering import top_k

FACTS_FILE = "vector/facts.json"
INDEX_FILE = "vector/index.hnsw"
VECTORS_FILE = "vector/item_vectors.npy"
TOWER_FILE = "vector/user_tower.onnx"
FILES = (FACTS_FILE, INDEX_FILE, VECTORS_FILE, TOWER_FILE)

EXACT_ROWS = 10_000
"""Up to this many allowed items a scan is exact and no slower than the index (measured at 36 dimensions, top 300)."""
_HEADER = struct.Struct("<6Q")
_UNREADABLE_GRAPH = (
    onnx_errors.Fail,
    onnx_errors.InvalidArgument,
    onnx_errors.InvalidGraph,
    onnx_errors.InvalidProtobuf,
    onnx_errors.NoSuchFile,
    onnx_errors.NotImplemented,
    onnx_errors.RuntimeException,
)


class VectorFacts(BaseModel):
    """What the files are; `facts.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: IndexFacts
    ef: int = Field(ge=1, description="width of the index search that passed the recall check; most items it returns")
    recall_at_100: float = Field(ge=0, le=1, description="of the index at that width, against exact search")
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

    def __init__(
        self,
        catalogue: Catalogue,
        tower: OnnxUserTower,
        vectors: NDArray[np.float32],
        *,
        index: Any = None,
        ef: int = 0,
        exact_rows: int = EXACT_ROWS,
    ) -> None:
        """`vectors`: float32[items, dim] by catalogue row; `index`: hnswlib's over them; None: search exactly.

        The index returns at most `ef` items, and is used if more than `exact_rows` items are allowed.
        """
        self.catalogue = catalogue
        self._tower = tower
        self._vectors = vectors
        self._index = index
        self._ef = ef
        self._exact_rows = exact_rows

    @classmethod
    def open(cls, folder: Path, *, exact: bool = False, exact_rows: int = EXACT_ROWS) -> Self:
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
        index = None if exact else open_index(folder / INDEX_FILE, facts.index, vectors, ef=facts.ef)
        return cls(catalogue, tower, vectors, index=index, ef=facts.ef, exact_rows=exact_rows)

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
        """Runs the tower once for the batch, then one search per query."""
        if not queries:
            return []
        users = self._tower.vectors(queries, self.catalogue)
        return [
            self._result(self._near(user, query.count, own), user, query.count)
            for user, query, own in zip(users, queries, allowed, strict=True)
        ]

    def _near(self, user: NDArray[np.float32], count: int, allowed: Allowed) -> NDArray[np.int64]:
        """Allowed rows among which the best `count` are: over-fetched from the index, or all allowed ones."""
        # The index knows no filter: it is asked for as many more items as are not allowed, any of which it may return.
        n_items, n_allowed = len(self.catalogue), allowed.count
        fetched = count + n_items - n_allowed
        # The index serves if a scan would be long, and if the search that passed the recall check is wide enough.
        if self._index is not None and n_allowed > self._exact_rows and fetched <= min(self._ef, n_items):
            rows = _query_index(self._index, user, fetched)
            rows = rows[allowed.passes(rows)]
            if len(rows) >= min(count, n_allowed):
                return np.sort(rows)
        # Otherwise every allowed item is scored: an exact search.
        return allowed.rows()

    def _result(self, rows: NDArray[np.int64], user: NDArray[np.float32], count: int) -> RecallResult:
        """The best `count` of `rows`. The score is the inner product itself, never a distance."""
        # If most rows are wanted, scoring all of them costs less than copying most vectors.
        most = len(rows) * 2 > len(self.catalogue)
        scores: Scores = (self._vectors @ user)[rows] if most else self._vectors[rows] @ user
        best = top_k(scores, count)
        return RecallResult(self.catalogue.item_ids[rows[best]], scores[best])


def read_facts(folder: Path) -> VectorFacts:
    """What `facts.json` says; raises BundleDamaged."""
    path = folder / FACTS_FILE
    try:
        return VectorFacts.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise BundleDamaged(f"{path}: unreadable ({error}); train and publish again") from error


def open_index(path: Path, facts: IndexFacts, vectors: NDArray[np.float32], *, ef: int) -> Any:
    """Opens an hnswlib index after checking that it is what `facts` say and holds `vectors`.

    hnswlib opens a file of another dim or space without complaint. Dim and count are in the file's header. The space is
    not, so it must be inner products, and what the index returns is compared with the inner products of `vectors`.

    Raises:
        BundleDamaged: the file cannot be read.
        BundleMismatch: another dim, count or space, or other vectors.
    """
    if facts.space != "ip":
        raise BundleMismatch(f"{path}: {FACTS_FILE} says space {facts.space}, scores are inner products; train again")
    dim, count = _header(path)
    if (dim, count) != (facts.dim, facts.count):
        raise BundleMismatch(
            f"{path}: dim {dim} and {count} items, expected dim {facts.dim} and {facts.count}; train and publish again"
        )
    index = hnswlib.Index(space=facts.space, dim=facts.dim)
    try:
        index.load_index(str(path), max_elements=max(count, 1))
    except RuntimeError as error:
        raise BundleDamaged(f"{path}: hnswlib cannot read it ({error}); train and publish again") from error
    index.set_ef(ef)
    index.set_num_threads(1)
    if count:
        labels, distances = index.knn_query(vectors[:1], k=1, num_threads=1)
        if not np.allclose(1 - distances[0], vectors[labels[0].astype(np.int64)] @ vectors[0], rtol=1e-4, atol=1e-4):
            raise BundleMismatch(f"{path}: its distances are not those of {VECTORS_FILE}; train and publish again")
    return index


def _header(path: Path) -> tuple[int, int]:
    """Dim and count in the header of an hnswlib file (hnswalg.h, saveIndex: six size_t)."""
    try:
        with path.open("rb") as file:
            _, _, count, _, label_offset, data_offset = _HEADER.unpack(file.read(_HEADER.size))
    except (OSError, struct.error) as error:
        raise BundleDamaged(f"{path}: unreadable ({error}); train and publish again") from error
    return (label_offset - data_offset) // 4, count


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


def _query_index(index: Any, user: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the `k` nearest items; none if the graph reaches fewer."""
    try:
        labels, _ = index.knn_query(user[None, :], k=k, num_threads=1)
    except RuntimeError:
        return np.empty(0, np.int64)
    rows: NDArray[np.int64] = labels[0].astype(np.int64)
    return rows
