"""Side features of items, in addition to the catalogue's columns: the people who made them, and text vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys.catalogue import Catalogue
from recsys.errors import DataMalformed

TEXT_VECTORS_FILE = "text/vectors.npy"
_CREDITS = 5
"""People of each role that describe an item; the rest of a long cast carries little signal."""


@dataclass(frozen=True, slots=True)
class ItemSideData:
    """Optional columns of items; every part may be absent."""

    person_ids: NDArray[np.int64]
    """int64[people], ascending; ids mean the same person at every cut-off."""
    people_indptr: NDArray[np.int64]
    """int64[items + 1]: the people of item row i are `people[indptr[i]:indptr[i + 1]]`."""
    people: NDArray[np.int64]
    """int64[credits]: rows of `person_ids`."""
    text: NDArray[np.float32]
    """float32[items, t]: one vector per item, t is 0 where there are none; zeros where an item has no text."""

    @classmethod
    def of(cls, catalogue: Catalogue, folder: Path | None = None) -> Self:
        """People as the catalogue names them, and text vectors where `folder` holds some.

        Raises:
            DataMalformed: the text vectors are not one per item of the catalogue.
        """
        billed = None if catalogue.people is None else catalogue.people.first(_CREDITS)
        none = np.empty(0, np.int64)
        return cls(
            none if billed is None else billed.person_ids,
            np.zeros(len(catalogue) + 1, np.int64) if billed is None else billed.indptr,
            none if billed is None else billed.person_rows.astype(np.int64),
            _read_text(folder, len(catalogue)),
        )


class SideTower(nn.Module):
    """Adds people and text to the vectors of items."""

    def __init__(self, side: ItemSideData, size: int) -> None:
        super().__init__()
        counts = np.diff(side.people_indptr)
        self.people = nn.Embedding(len(side.person_ids), size) if len(side.person_ids) else None
        self.text = nn.Linear(side.text.shape[1], size, bias=False) if side.text.shape[1] else None
        for part in (self.people, self.text):
            if part is not None:
                nn.init.normal_(part.weight, std=0.02)
        self.credits: Tensor
        self.owners: Tensor
        self.shares: Tensor
        self.vectors: Tensor
        arrays = {
            "credits": side.people,
            "owners": np.repeat(np.arange(len(counts), dtype=np.int64), counts),
            "shares": np.repeat(1 / np.maximum(counts, 1), counts).astype(np.float32),
            "vectors": side.text,
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)

    def forward(self, latent: Tensor) -> Tensor:
        """`latent` [items, d] of all items plus the mean of each item's people plus its text, projected."""
        if self.people is not None:
            credited = self.people(self.credits) * self.shares[:, None]
            latent = latent.index_add(0, self.owners, credited.to(latent.dtype))
        if self.text is not None:
            latent = latent + self.text(self.vectors)
        return latent


def _read_text(folder: Path | None, n_items: int) -> NDArray[np.float32]:
    path = None if folder is None else folder / TEXT_VECTORS_FILE
    if path is None or not path.is_file():
        return np.zeros((n_items, 0), np.float32)
    vectors: NDArray[np.float32] = np.load(path, allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != n_items or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise DataMalformed(
            f"{path}: {vectors.dtype}{list(vectors.shape)}, expected finite float32[{n_items}, d], a row per item of "
            "the catalogue; make the text vectors of this cut-off again"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
