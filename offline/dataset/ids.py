"""The append-only table that gives every user and item key its number.

A key that is a plain decimal integer in [0, 2^53) - no sign, no leading zero - *is* its number. Any other key gets the
next number from 2^53 upwards, in order of first appearance. A number never changes its meaning in a later ingest, so
recorded events survive retraining and rollback; and below 2^53 a number survives JSON and floats unharmed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.errors import DataMalformed, NotFound
from recsys.identity import FIRST_ASSIGNED, MAX_KEY_BYTES, plain_number

PLAIN_INTEGER = r"\A(?:0|[1-9][0-9]{0,15})\z"
SCHEMA = pa.schema([("id", pa.int64()), ("key", pa.string())])


class IdTable:
    """Numbers of keys. Only keys that are not numbers themselves are stored."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """`keys` are the stored keys in order of their numbers. Raises DataMalformed where one is repeated."""
        self._keys = list(keys)
        self._numbers = {key: FIRST_ASSIGNED + position for position, key in enumerate(self._keys)}
        if len(self._numbers) != len(self._keys):
            raise DataMalformed("an id table holds a key twice; restore it from a bundle or an older copy")

    def __len__(self) -> int:
        """How many keys are stored."""
        return len(self._keys)

    @classmethod
    def load(cls, path: Path) -> IdTable:
        """Reads a table; an absent file is an empty table. Raises DataMalformed for one that is not as it was saved."""
        if not path.is_file():
            return cls()
        try:
            table = pq.read_table(path, columns=SCHEMA.names)
            numbers = table["id"].to_numpy()
        except (pa.ArrowInvalid, OSError) as error:
            raise DataMalformed(f"{path}: the id table cannot be read ({error}); restore it from a bundle") from error
        if not np.array_equal(numbers, np.arange(FIRST_ASSIGNED, FIRST_ASSIGNED + len(numbers))):
            raise DataMalformed(f"{path}: ids must run from {FIRST_ASSIGNED} without a gap; restore it from a bundle")
        return cls(table["key"].to_pylist())

    def save(self, path: Path) -> None:
        """Writes the stored keys with their numbers, in order of number."""
        numbers = np.arange(FIRST_ASSIGNED, FIRST_ASSIGNED + len(self._keys), dtype=np.int64)
        pq.write_table(pa.table([numbers, pa.array(self._keys, pa.string())], schema=SCHEMA), path, compression="zstd")

    def numbers(self, keys: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Number of each key, in order; new keys are given theirs.

        Raises DataMalformed for a null, empty or too long key, before any number is given.
        """
        merged = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
        encoded = pc.dictionary_encode(pc.cast(merged, pa.string()))
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        distinct = encoded.dictionary
        _refuse_unusable(distinct, encoded.null_count)
        plain = np.asarray(pc.match_substring_regex(distinct, PLAIN_INTEGER), dtype=bool)
        numbers = np.full(len(distinct), FIRST_ASSIGNED, dtype=np.int64)
        numbers[plain] = np.asarray(pc.cast(distinct.filter(pa.array(plain)), pa.int64()), dtype=np.int64)
        named = np.flatnonzero(numbers >= FIRST_ASSIGNED)
        numbers[named] = [self._assign(key) for key in distinct.take(pa.array(named)).to_pylist()]
        rows = np.asarray(encoded.indices, dtype=np.int64)
        return numbers[rows]

    def _assign(self, key: str) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = FIRST_ASSIGNED + len(self._keys)
            self._keys.append(key)
        return number

    def number(self, key: str) -> int | None:
        """The number of `key`; None for a key that is not a number and was never stored."""
        number = plain_number(key)
        return self._numbers.get(key) if number is None else number

    def key(self, number: int) -> str:
        """The key of `number`. Raises NotFound for a number that was never given and is not a key itself."""
        if 0 <= number < FIRST_ASSIGNED:
            return str(number)
        if FIRST_ASSIGNED <= number < FIRST_ASSIGNED + len(self._keys):
            return self._keys[number - FIRST_ASSIGNED]
        raise NotFound(f"no key has the number {number}; numbers run from 0 to {FIRST_ASSIGNED + len(self._keys) - 1}")

    def keys(self, numbers: NDArray[np.int64]) -> pa.Array:
        """Keys of many numbers, in order. Raises NotFound."""
        stored = np.flatnonzero(numbers >= FIRST_ASSIGNED)
        texts = pc.cast(pa.array(numbers), pa.string())
        if not len(stored):
            return texts
        named = pa.array([self.key(int(number)) for number in numbers[stored]], pa.string())
        return pc.replace_with_mask(texts, pa.array(numbers >= FIRST_ASSIGNED), named)


def _refuse_unusable(distinct: pa.Array, null_count: int) -> None:
    longest = pc.max(pc.binary_length(distinct)).as_py() or 0
    if null_count or pc.any(pc.equal(distinct, "")).as_py():
        raise DataMalformed("an id is empty; every user and item needs a key")
    if longest > MAX_KEY_BYTES:
        raise DataMalformed(f"an id has {longest} bytes; at most {MAX_KEY_BYTES} are allowed")
