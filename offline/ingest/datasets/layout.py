"""How a text file is laid out, and whether a file's beginning agrees."""

from __future__ import annotations

import csv
from dataclasses import dataclass

import pyarrow as pa

from recsys.errors import DataMalformed, DataMissing

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "::": "'::'", "|": "'|'"}
UTF8_MARK = b"\xef\xbb\xbf"
FOREIGN_BEGINNINGS = {
    b"\xff\xfe": "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"PK\x03\x04": "a zip archive (or a spreadsheet); name the zip itself, or save the sheet as csv",
    b"PAR1": "a Parquet file; give its name the ending .parquet",
}


@dataclass(frozen=True)
class Column:
    """One column of a file."""

    name: str
    type: pa.DataType
    aliases: tuple[str, ...] = ()
    """Other names it may have in a header; case and underscores do not matter."""
    required: bool = True


@dataclass(frozen=True)
class Layout:
    """Separator, quoting, encoding and columns of a text file."""

    columns: tuple[Column, ...]
    """With a header: the columns wanted, wherever they stand. Without: all columns of a line, in order."""
    separator: str = ","
    header: bool = True
    quoted: bool = True
    legacy_encoding: bool = False
    """Bytes that are not UTF-8 are Latin-1, as in the data sets before 2009; else they are an error."""
    free_text: str | None = None
    """With "::": the column that may itself contain the separator."""

    @property
    def encoding(self) -> str:
        """The encoding in words."""
        return "Latin-1 or UTF-8" if self.legacy_encoding else "UTF-8"


def normalise(name: str) -> str:
    """A header name without case, underscores and outer spaces."""
    return name.strip().lower().replace("_", "")


def refuse_foreign(data: bytes, file: str, first_line: int, layout: Layout) -> None:
    """Raises DataMalformed where a block, which begins at `first_line`, is not text in the layout's encoding."""
    expected = f"expected text in {layout.encoding}, separated by {SEPARATORS[layout.separator]}"
    for beginning, found in FOREIGN_BEGINNINGS.items():
        if first_line == 1 and data.startswith(beginning):
            raise DataMalformed(f"{file}: {expected}; found {found}")
    if b"\0" in data:
        line = first_line + data.count(b"\n", 0, data.index(b"\0"))
        raise DataMalformed(f"{file}:{line}: {expected}; found a zero byte (binary data, or UTF-16 text)")


def split_line(line: str, layout: Layout) -> list[str]:
    """The fields of one line."""
    if layout.quoted:
        return next(csv.reader([line], delimiter=layout.separator), [])
    return line.split(layout.separator)


def _other_separator(line: str, layout: Layout, at_least: int) -> str | None:
    """The separator, in words, that cuts `line` into the most fields, where these are enough."""
    counts = {text: len(line.split(text)) for text in SEPARATORS if text != layout.separator}
    best = max(counts, key=lambda text: (counts[text], len(text)))
    return SEPARATORS[best] if counts[best] >= at_least else None


def header_columns(line: str, file: str, layout: Layout) -> dict[str, int]:
    """Position of each wanted column in a header line.

    Raises DataMalformed for another separator, DataMissing for a column that is not there.
    """
    names = split_line(line, layout)
    positions = {normalise(name): position for position, name in reversed(list(enumerate(names)))}
    found: dict[str, int] = {}
    for column in layout.columns:
        for alias in (column.name, *column.aliases):
            if normalise(alias) in positions:
                found[column.name] = positions[normalise(alias)]
                break
    missing = [column for column in layout.columns if column.required and column.name not in found]
    if not missing:
        return found
    other = _other_separator(line, layout, 2) if len(names) == 1 else None
    if other:
        raise DataMalformed(
            f"{file}:1: columns are separated by {other}, expected {SEPARATORS[layout.separator]}; found {line[:120]!r}"
        )
    wanted = ", ".join(" or ".join((column.name, *column.aliases)) for column in missing)
    raise DataMissing(f"{file}: no column {wanted}; its first line names {', '.join(names)[:200]}")


def refuse_other_separator(line: str, file: str, layout: Layout) -> None:
    """Raises DataMalformed where the first line of a file without header is separated by something else."""
    width = len(layout.columns)
    if layout.separator in line:
        return
    other = _other_separator(line, layout, width)
    if other:
        raise DataMalformed(
            f"{file}:1: fields are separated by {other}, expected {SEPARATORS[layout.separator]}; found {line[:120]!r}"
        )
