"""Cuts a text file into blocks of whole records, so that memory is bounded and every line keeps its number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from offline.ingest.datasets.container import DataFile

BLOCK_BYTES = 4 << 20
"""Bytes per block: large enough for the parser, small enough that a few in flight do not matter."""


@dataclass(frozen=True)
class Block:
    """Whole records of a file."""

    data: bytes
    first_line: int
    is_last: bool
    """Nothing of the file follows."""

    @property
    def lines(self) -> int:
        """How many lines the block has; one without a line end counts."""
        return self.data.count(b"\n") + (not self.data.endswith(b"\n"))

    def halves(self, *, quoted: bool) -> tuple[Block, Block] | None:
        """The block in two, cut after the record nearest the middle; None where it is a single record."""
        ends = record_ends(self.data, quoted=quoted)
        inner = ends[(ends > 0) & (ends < len(self.data))]
        if not len(inner):
            return None
        cut = int(inner[np.argmin(np.abs(inner - len(self.data) // 2))])
        first = Block(self.data[:cut], self.first_line, is_last=False)
        return first, Block(self.data[cut:], self.first_line + first.lines, self.is_last)


def record_ends(data: bytes, *, quoted: bool) -> NDArray[np.int64]:
    """Offsets just behind each record: behind each line end that is not inside quotes."""
    values = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(values == ord("\n"))
    if quoted and b'"' in data:
        quotes = np.flatnonzero(values == ord('"'))
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return (ends + 1).astype(np.int64)


def _cut(data: bytes, *, quoted: bool, block_bytes: int, is_last: bool) -> int:
    """Where to cut `data`: behind its last whole record; 0 where more must be read first.

    A quote that is never closed would swallow the rest of the file: then the line with that quote is cut off alone.
    """
    ends = record_ends(data, quoted=quoted)
    end = int(ends[-1]) if len(ends) else 0
    unclosed = quoted and data.count(b'"', end) % 2 == 1
    if not unclosed:
        return len(data) if is_last else end
    if end or not (is_last or len(data) > 2 * block_bytes):
        return end
    return data.find(b"\n") + 1 or len(data)


def read_blocks(file: DataFile, *, quoted: bool, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yields the file in order, with a progress bar on a terminal."""
    rest, line = b"", 1
    with tqdm(total=file.size, unit="B", unit_scale=True, desc=f"read {file.name}"[-60:], disable=None) as progress:
        while True:
            data = file.stream.read(block_bytes) or b""
            progress.update(len(data))
            rest += data
            while rest and (cut := _cut(rest, quoted=quoted, block_bytes=block_bytes, is_last=not data)):
                block = Block(rest[:cut], line, is_last=not data and cut == len(rest))
                rest = rest[cut:]
                line += block.lines
                yield block
            if not data:
                return
