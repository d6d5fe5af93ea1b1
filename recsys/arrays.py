"""Arrays and strings of a bundle, mapped: a page is read when it is used, and processes of one machine share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from recsys.errors import BundleDamaged


def open_array(path: Path) -> NDArray[Any]:
    """The array at `path`, read-only; raises BundleDamaged if it is not there or no array."""
    try:
        # asarray: slices of a plain array over the mapped file are ten times faster than those of numpy's memmap class
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, EOFError, ValueError) as error:
        raise BundleDamaged(f"{path}: unreadable ({error}); train and publish again") from error


class Strings:
    """Strings by position, in two arrays: the UTF-8 of all of them, one after the other, and where each begins."""

    def __init__(self, starts: NDArray[np.int64], text: NDArray[np.uint8]) -> None:
        """String i is `text[starts[i]:starts[i + 1]]`; so `starts` has one number more than there are strings."""
        self._starts, self._text = starts.data, text.data

    @classmethod
    def of(cls, values: Iterable[str]) -> Self:
        """Packs `values`."""
        encoded = [value.encode("utf-8") for value in values]
        starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(starts, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, position: int) -> str:
        return str(self._text[self._starts[position] : self._starts[position + 1]], "utf-8")

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))

    def save(self, path: Path) -> None:
        """Writes the two files that `string_files` names."""
        starts, text = _files(path)
        np.save(starts, np.asarray(self._starts))
        np.save(text, np.asarray(self._text))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Maps what `save` wrote; raises BundleDamaged if the two files do not fit together."""
        starts, text = map(open_array, _files(path))
        if not (starts.dtype == np.int64 and text.dtype == np.uint8 and len(starts) and starts[-1] == len(text)):
            raise BundleDamaged(f"{path}: {len(starts)} starts do not fit {len(text)} bytes; train and publish again")
        return cls(starts, text)


def string_files(name: str) -> tuple[str, str]:
    """The two files of strings that are saved as `name`."""
    return f"{name}_starts.npy", f"{name}_text.npy"


def _files(path: Path) -> tuple[Path, Path]:
    starts, text = string_files(path.name)
    return path.with_name(starts), path.with_name(text)
