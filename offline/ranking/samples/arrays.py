"""Samples as memory-mapped arrays, one .npy file each, written piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from recsys.catalogue import Catalogue
from recsys.domain import RankQuery, Scores

ARRAYS = ("features", "labels", "groups", "relevant_counts", "warm", "item_rows", "ratings")
HISTORY_ARRAYS = ("indptr", "rows", "values", "ages")
HISTORY_LENGTH = 200
"""Latest events of a request's history that are kept with its candidates."""

_NO_EVENTS = (np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class SampleHistories:
    """The last `HISTORY_LENGTH` known events of each request, oldest first, as the graph menu's `history_*` has them.

    Those of request i are at indptr[i]:indptr[i + 1].
    """

    indptr: NDArray[np.int64]
    """int64[requests + 1]."""
    rows: NDArray[np.int32]
    """int32[events]: catalogue rows."""
    values: NDArray[np.float32]
    """float32[events]: rating or weight, NaN where the event has none."""
    ages: NDArray[np.float32]
    """float32[events]: seconds from the event to the request's `as_of`, never negative."""

    @classmethod
    def of(cls, catalogue: Catalogue, queries: Sequence[RankQuery]) -> SampleHistories:
        """The histories of `queries`; unknown items are left out."""
        parts = [*(_known_history(catalogue, query) for query in queries), _NO_EVENTS]
        lengths = [len(rows) for rows, _, _ in parts[:-1]]
        rows, values, ages = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(np.cumsum([0, *lengths], dtype=np.int64), rows, values, ages)


@dataclass(frozen=True, slots=True)
class Samples:
    """Candidates of many requests, one after another, each request's best blended first."""

    features: NDArray[np.float32]
    """float32[n, F]."""
    labels: NDArray[np.int8]
    """int8[n]: 1 where the candidate is relevant."""
    groups: NDArray[np.int64]
    """int64[requests]: number of candidates of each request; they sum to n."""
    relevant_counts: NDArray[np.int64]
    """int64[requests]: relevant items of each request, found by recall or not; at least 1."""
    warm: NDArray[np.bool_]
    """bool[requests]: whether the user has a history."""
    item_rows: NDArray[np.int32]
    """int32[n]: catalogue rows of the candidates."""
    ratings: NDArray[np.float32]
    """float32[n]: the rating or weight that the user later gave; NaN where there is none or the label is 0."""
    histories: SampleHistories

    def save(self, folder: Path) -> None:
        """Writes one .npy file per array."""
        with SampleWriter(folder) as writer:
            writer.append(self)

    @classmethod
    def open(cls, folder: Path) -> Samples:
        """Memory-maps what `save` or a `SampleWriter` wrote."""
        names = (*ARRAYS, *(f"history_{name}" for name in HISTORY_ARRAYS))
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names]
        histories = SampleHistories(*arrays[len(ARRAYS) :])
        return cls(*[*arrays[: len(ARRAYS)], histories])


class SampleWriter:
    """Writes samples one block after another; only one block is ever in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        names = (*ARRAYS, *(f"history_{name}" for name in HISTORY_ARRAYS))
        self._files = {name: _GrowingArray(folder / f"{name}.npy") for name in names}
        self._events = 0

    def append(self, block: Samples) -> None:
        """Adds the requests of `block` after those before."""
        for name in ARRAYS:
            self._files[name].append(getattr(block, name))
        first = block.histories.indptr[: 1 if not self._files["history_indptr"].length else 0]
        self._files["history_indptr"].append(np.concatenate([first, block.histories.indptr[1:] + self._events]))
        for name in HISTORY_ARRAYS[1:]:
            self._files[f"history_{name}"].append(getattr(block.histories, name))
        self._events += int(block.histories.indptr[-1])

    def close(self) -> None:
        """Completes the files; without it they cannot be read."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _GrowingArray:
    """A .npy file whose first dimension is known at the end: numpy leaves room for its digits in the header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("wb")
        self._like: NDArray[Any] | None = None
        self.length = 0

    def append(self, array: NDArray[Any]) -> None:
        """Adds rows; dtype and further dimensions are those of the first ones."""
        if self._like is None:
            self._like = array[:0].copy()
            self._write_header(self._like)
        if (array.dtype, array.shape[1:]) != (self._like.dtype, self._like.shape[1:]):
            raise ValueError(
                f"{self._path}: rows of {array.dtype}{array.shape[1:]} behind {self._like.dtype}{self._like.shape[1:]}"
            )
        np.ascontiguousarray(array).tofile(self._file)
        self.length += len(array)

    def close(self) -> None:
        """Writes the header again, now with the length."""
        if self._like is not None:
            self._file.seek(0)
            self._write_header(self._like)
        self._file.close()

    def _write_header(self, like: NDArray[Any]) -> None:
        header = np.lib.format.header_data_from_array_1_0(like)
        header["shape"] = (self.length, *like.shape[1:])
        np.lib.format.write_array_header_1_0(self._file, header)


def _known_history(catalogue: Catalogue, query: RankQuery) -> tuple[NDArray[np.int32], Scores, Scores]:
    """Rows, values and ages of the last known events of a query."""
    rows = catalogue.rows(query.history.item_ids)
    kept = np.flatnonzero(rows >= 0)[-HISTORY_LENGTH:]
    ages = np.maximum(query.as_of - query.history.timestamps[kept], 0)
    return rows[kept].astype(np.int32), query.history.values[kept], ages.astype(np.float32)
