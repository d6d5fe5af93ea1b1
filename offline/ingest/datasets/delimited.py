"""Parses delimited text with Arrow, block by block; a block that fails is halved until the bad line stands alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv

from offline.ingest.datasets.blocks import BLOCK_BYTES, Block, read_blocks
from offline.ingest.datasets.container import DataFile
from offline.ingest.datasets.findings import Findings
from offline.ingest.datasets.layout import (
    UTF8_MARK,
    Layout,
    header_columns,
    refuse_foreign,
    refuse_other_separator,
    split_line,
)
from offline.ingest.datasets.records import Rows
from recsys.errors import DataTruncated

UNIT_SEPARATOR = "\x1f"
"""Stands in for "::" inside a block: Arrow takes one character only."""

Conversion = Callable[[pa.Table], pa.Table]
"""Turns a parsed block into rows; raises pyarrow.ArrowInvalid for what cannot be read."""


@dataclass(frozen=True)
class BlockParser:
    """Parses blocks of one file whose columns are known."""

    layout: Layout
    fields: tuple[str, ...]
    """Every field of a line: a column's name, or a placeholder for one that is not wanted."""
    conversion: Conversion

    def parse(self, data: bytes) -> pa.Table:
        """The wanted columns of whole records. Raises pyarrow.ArrowInvalid."""
        wanted = {column.name: column.type for column in self.layout.columns if column.name in self.fields}
        table = pyarrow.csv.read_csv(
            pa.BufferReader(self._prepare(data)),
            read_options=pyarrow.csv.ReadOptions(
                column_names=self.fields, use_threads=False, block_size=max(len(data) + 1, 1 << 16)
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self.layout.separator if len(self.layout.separator) == 1 else UNIT_SEPARATOR,
                quote_char='"' if self.layout.quoted else False,
                newlines_in_values=self.layout.quoted,
                ignore_empty_lines=False,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=wanted, include_columns=list(wanted), null_values=[""], strings_can_be_null=False
            ),
        )
        return self.conversion(table)

    def _prepare(self, data: bytes) -> bytes:
        if self.layout.legacy_encoding and not data.isascii():
            data = _as_utf8(data)
        if self.layout.separator != "::":
            return data
        if self.layout.free_text is None:
            return data.replace(b"::", UNIT_SEPARATOR.encode())
        return _free_text_pattern(self.layout).sub(UNIT_SEPARATOR.encode().join(_groups(len(self.fields))), data)


def _as_utf8(data: bytes) -> bytes:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1").encode("utf-8")
    return data


def _groups(n: int) -> list[bytes]:
    return [rb"\%d" % number for number in range(1, n + 1)]


def _free_text_pattern(layout: Layout) -> re.Pattern[bytes]:
    """Matches a whole line; only the free text may hold "::"."""
    parts = [
        rb"([^\r\n]*)" if column.name == layout.free_text else rb"((?:[^:\r\n]|:(?!:))*)" for column in layout.columns
    ]
    return re.compile(rb"^" + rb"::".join(parts) + rb"(?=\r?$)", re.MULTILINE)


def _diagnose(text: str, parser: BlockParser, error: Exception) -> str:
    """Why a single record cannot be read, in words that name what was found and expected."""
    layout = parser.layout
    if layout.quoted and text.count('"') % 2:
        return f"a quote is opened and never closed in {text[:120]!r}"
    found, expected = len(split_line(text, layout)), len(parser.fields)
    if found != expected and layout.free_text is None:
        return f"{found} fields, expected {expected} separated by {layout.separator!r}: {text[:120]!r}"
    match = re.search(r"column #(\d+).*conversion error to (\S+): invalid value '(.*)'", str(error), re.DOTALL)
    if match:
        kind = {"int64": "a whole number", "double": "a number"}.get(match[2], match[2])
        return f"{match[3][:80]!r} in column {parser.fields[int(match[1])]} is not {kind}: {text[:120]!r}"
    return f"cannot be read ({str(error).splitlines()[0][:160]}): {text[:120]!r}"


class DelimitedReader:
    """Reads one file; `rows` yields its blocks."""

    def __init__(self, file: DataFile, layout: Layout, findings: Findings, conversion: Conversion) -> None:
        self.file, self.layout, self.findings, self.conversion = file, layout, findings, conversion

    def rows(self, block_bytes: int) -> Iterator[Rows]:
        """Parsed blocks in file order. Raises DataMissing, DataTruncated, DataMalformed."""
        parser: BlockParser | None = None
        for block in read_blocks(self.file, quoted=self.layout.quoted, block_bytes=block_bytes):
            refuse_foreign(block.data, self.file.name, block.first_line, self.layout)
            if parser is None:
                parser, rest = self._begin(block)
                yield from self._block_rows(rest, parser)
            else:
                yield from self._block_rows(block, parser)
        if parser is None:
            raise DataTruncated(f"{self.file.name} is empty; expected at least one line")

    def _begin(self, block: Block) -> tuple[BlockParser, Block]:
        """Reads the header, or checks the first line; returns what is left of the first block."""
        data = block.data.removeprefix(UTF8_MARK)
        end = data.find(b"\n") + 1 or len(data)
        first = data[:end].decode("utf-8", "replace").rstrip("\r\n")
        if not self.layout.header:
            refuse_other_separator(first, self.file.name, self.layout)
            fields = tuple(column.name for column in self.layout.columns)
            return BlockParser(self.layout, fields, self.conversion), Block(data, 1, block.is_last)
        if block.is_last and end == len(data):
            raise DataTruncated(f"{self.file.name}:1: the file ends inside its header {first[:120]!r}; copy it again")
        positions = {place: name for name, place in header_columns(first, self.file.name, self.layout).items()}
        width = len(split_line(first, self.layout))
        fields = tuple(positions.get(place, f"unused {place}") for place in range(width))
        return BlockParser(self.layout, fields, self.conversion), Block(data[end:], 2, block.is_last)

    def _block_rows(self, block: Block, parser: BlockParser) -> Iterator[Rows]:
        if not block.data.strip(b"\r\n"):
            return
        try:
            table = parser.parse(block.data)
        except pa.ArrowInvalid as error:
            halves = block.halves(quoted=self.layout.quoted)
            if halves is None:
                self._refuse(block, parser, error)
                return
            yield from self._block_rows(halves[0], parser)
            yield from self._block_rows(halves[1], parser)
        else:
            unterminated = block.is_last and not block.data.endswith(b"\n")
            yield Rows(table, self.file.name, block.first_line, unterminated)

    def _refuse(self, block: Block, parser: BlockParser, error: Exception) -> None:
        """Reports a record that cannot be read. Raises DataTruncated where it ends the file without a line end."""
        place = f"{self.file.name}:{block.first_line}"
        data = block.data.rstrip(b"\r\n")
        try:
            text = data.decode("latin-1" if self.layout.legacy_encoding else "utf-8")
        except UnicodeDecodeError as bad:
            text = data.decode("latin-1")
            why = (
                f"byte 0x{data[bad.start]:02x} at position {bad.start + 1} is not UTF-8, expected UTF-8; "
                f"as Latin-1 it reads {text[:120]!r} (convert the file: iconv -f LATIN1 -t UTF-8)"
            )
        else:
            why = _diagnose(text, parser, error)
        if block.is_last and not block.data.endswith(b"\n"):
            raise DataTruncated(f"{place}: the file ends inside its last line ({why}); copy or download it again")
        self.findings.bad_line(place, why, lines=block.lines)


def unchanged(table: pa.Table) -> pa.Table:
    """The conversion that does nothing."""
    return table


def read_delimited(
    file: DataFile,
    layout: Layout,
    findings: Findings,
    *,
    conversion: Conversion = unchanged,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Rows]:
    """Yields the rows of a text file, block by block, in file order.

    Raises DataMissing for a column, DataTruncated for an incomplete last line, DataMalformed for a wrong separator or
    encoding and for an unparseable line beyond what `findings` allows.
    """
    yield from DelimitedReader(file, layout, findings, conversion).rows(block_bytes)
