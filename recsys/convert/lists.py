"""A list on the wire has one of two forms: a repeated field, or little-endian bytes in the packed field next to it.

A repeated field becomes a Python object per value on its way to or from an array; bytes are copied once. Which form a
sender may use is decided by what the receiver reads (ADR 17); a reader here takes either, and refuses both at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from recsys.domain import Ids, Scores
from recsys.errors import InvalidRequest, RecsysError


def ids_from_proto(values: Collection[int]) -> Ids:
    """int64[n]. `fromiter` is the fastest way to read a repeated field that also works if it is empty."""
    return np.fromiter(values, np.int64, len(values))


def floats_from_proto(values: Sequence[float]) -> Scores:
    """float32[n]. Through a list: as fast as `fromiter`, and twice as fast in Debian's Python."""
    return np.array(values[:], np.float32)


class WireList:
    """The list NAME of a message: its repeated field `NAME`, and `packed_NAME` next to it."""

    def __init__(self, name: str, dtype: str) -> None:
        """`dtype` is the little-endian numpy type of the packed values, such as "<i8"."""
        self.name = name
        self.packed_name = f"packed_{name}"
        self.dtype = np.dtype(dtype)
        self._value_size = self.dtype.itemsize
        self._forms = attrgetter(name, self.packed_name)
        self._from_repeated = floats_from_proto if self.dtype.kind == "f" else ids_from_proto
        self._empty = np.empty(0, self.dtype)

    def size(self, message: Message) -> int:
        """Number of values, in whichever form they come; one that is cut off counts, and is for `read` to refuse."""
        repeated, packed = self._forms(message)
        return -(-len(packed) // self._value_size) if packed else len(repeated)

    def read(self, message: Message, field: str, error: type[RecsysError] = InvalidRequest) -> NDArray[Any]:
        """The values: packed ones as read-only `dtype`, integers of a repeated field as int64, which holds them all.

        Raises:
            error: both forms at once, or bytes that are no whole number of values.
        """
        repeated, packed = self._forms(message)
        if not packed:
            return self._from_repeated(repeated) if repeated else self._empty
        if repeated:
            raise error(f"{field}.{self.packed_name}: sent together with {self.name}; send one of the two")
        if len(packed) % self._value_size:
            found = f"{field}.{self.packed_name}: {len(packed)} bytes"
            raise error(f"{found}; expected a multiple of {self._value_size}, the size of a value")
        return np.frombuffer(packed, self.dtype)

    def write(self, message: Message, values: NDArray[Any], *, packed: bool) -> None:
        """Fills in one of the two forms."""
        if packed:
            setattr(message, self.packed_name, to_packed(values, self.dtype))
        else:
            getattr(message, self.name).extend(values.tolist())


def to_packed(values: NDArray[Any], dtype: np.dtype[Any]) -> bytes:
    """The values as bytes in row-major order."""
    return values.astype(dtype, copy=False).tobytes()
