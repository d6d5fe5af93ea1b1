"""Times in whatever form a user's own file has them, as Unix seconds."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

TEXT_FORMS = (pa.int64(), pa.float64(), pa.timestamp("us"), pa.timestamp("us", tz="UTC"))
"""What text is tried as, in this order: numbers, ISO 8601 without a zone (taken as UTC), ISO 8601 with a zone."""


def to_seconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Unix seconds (int64, fractions cut off) of numbers, dates, Arrow timestamps, or text in one of `TEXT_FORMS`.

    Nulls, NaN and empty text become null. Raises pyarrow.ArrowInvalid for anything else.
    """
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _from_text(column)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zone = kind.tz if pa.types.is_timestamp(kind) else None
        return pc.cast(pc.cast(column, pa.timestamp("s", tz=zone), safe=False), pa.int64())
    if pa.types.is_floating(kind):
        known = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
        return pc.cast(pc.floor(known), pa.int64())
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return pc.cast(column, pa.int64())
    raise pa.ArrowInvalid(f"a timestamp cannot be read from the type {kind}")


def _from_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
    for form in TEXT_FORMS:
        try:
            return to_seconds(pc.cast(text, form))
        except pa.ArrowInvalid as error:
            refusal = error
    raise pa.ArrowInvalid(f"not a time in Unix seconds or ISO 8601: {refusal}")
