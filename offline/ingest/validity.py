"""Which rows can be read but make no sense; each is dropped for the first reason that applies, and listed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from offline.ingest.datasets.findings import MAX_EXAMPLES, Findings
from offline.ingest.datasets.records import Rows
from recsys.domain import EventType
from recsys.identity import FIRST_ASSIGNED, MAX_KEY_BYTES

LATEST_TIMESTAMP = 32_503_680_000
"""The year 3000; anything later is in another unit."""

Check = tuple[str, NDArray[np.bool_]]
"""A reason, and the rows that it concerns."""


def truth(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    """A boolean Arrow column as a mask; null is False."""
    return np.asarray(pc.fill_null(values, False), dtype=np.bool_)  # noqa: FBT003


def id_checks(column: pa.ChunkedArray, role: str) -> list[Check]:
    """Checks of a column of user or item ids."""
    if pa.types.is_integer(column.type):
        outside = pc.or_(pc.less(column, 0), pc.greater_equal(column, FIRST_ASSIGNED))
        return [(f"{role} id is empty", truth(pc.is_null(column))), (f"{role} id is not in [0, 2^53)", truth(outside))]
    empty = pc.or_kleene(pc.is_null(column), pc.equal(column, ""))
    too_long = pc.greater(pc.binary_length(column), MAX_KEY_BYTES)
    return [
        (f"{role} id is empty", truth(empty)),
        (f"{role} id is longer than {MAX_KEY_BYTES} bytes", truth(too_long)),
        (f"{role} id holds a control character", truth(pc.match_substring_regex(column, r"[\x00-\x1f\x7f]"))),
    ]


def time_checks(column: pa.ChunkedArray) -> list[Check]:
    """Checks of a column of Unix seconds."""
    return [
        ("no timestamp", truth(pc.is_null(column))),
        ("timestamp is negative", truth(pc.less(column, 0))),
        ("timestamp is after the year 3000 (milliseconds?)", truth(pc.greater(column, LATEST_TIMESTAMP))),
    ]


def value_checks(
    values: NDArray[np.float64], types: NDArray[np.int8], absent: NDArray[np.bool_], rating_range: tuple[float, float]
) -> list[Check]:
    """Checks of ratings and weights; `absent` marks rows without one."""
    lowest, highest = rating_range
    is_rating = types == EventType.RATING
    known = np.isin(types, [int(kind) for kind in EventType])
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        outside = (values < lowest) | (values > highest)
        negative = values < 0
    return [
        (f"type is none of {', '.join(kind.name.lower() for kind in EventType)}", ~known),
        ("rating without a value", is_rating & absent),
        ("rating or weight is not a finite number", ~absent & ~finite),
        (f"rating is not in [{lowest:g}, {highest:g}]", is_rating & ~absent & outside),
        ("weight is negative", ~is_rating & ~absent & negative),
    ]


def drop_invalid(rows: Rows, checks: Sequence[Check], findings: Findings, *, table: str) -> NDArray[np.bool_]:
    """Which rows pass every check; the others are listed in `findings` under "table: reason"."""
    kept = np.ones(len(rows), np.bool_)
    for reason, concerned in checks:
        dropped = np.flatnonzero(concerned & kept)
        findings.drop(f"{table}: {reason}", len(dropped), (rows.quote(int(row)) for row in dropped[:MAX_EXAMPLES]))
        kept[dropped] = False
    return kept
