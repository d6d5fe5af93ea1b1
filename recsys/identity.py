"""The rule that assigns numbers to user and item keys; ingest and the gateway both follow it.

A key that is a plain decimal integer in [0, 2^53) - no sign, no leading zero - is its number. Other keys get numbers
from 2^53 up, in order of first appearance, in a table that only grows. Below 2^53 a number survives JSON and floats.
"""

from __future__ import annotations

FIRST_ASSIGNED = 1 << 53
"""The first number assigned to a key that is not a number itself."""

MAX_KEY_BYTES = 256
"""Longest key, in bytes of UTF-8."""


def plain_number(key: str) -> int | None:
    """The number that `key` is; None if it is not a plain decimal integer in [0, 2^53)."""
    if not (key.isascii() and key.isdigit()) or len(key) > 16 or (key[0] == "0" and key != "0"):
        return None
    number = int(key)
    return number if number < FIRST_ASSIGNED else None
