"""When the user comes: sessions, the hour and the weekday, as of a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.domain import Ids
from recsys.features.events import DAY, MISSING

SESSION_NAMES = (
    "user_sessions",
    "user_session_events",
    "user_in_session",
    "user_hour_share",
    "user_weekend_share",
)
SESSION_GAP_SECONDS = 6 * 3_600
"""A pause of more than this ends a session."""
HOUR_WIDTH = 3.0
_THURSDAY, _SATURDAY = 3, 5
"""Days from Monday: 1970-01-01 was a Thursday."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """The rhythm of one history, as of a moment."""

    numbers: NDArray[np.float32]
    """float32[len(SESSION_NAMES)]: logarithm of 1 + sessions, and of 1 + events of the last one; 1 where it still
    lasts; the share of events within three hours of the moment's hour, and on its kind of day (weekend or not), in UTC.

    The hour and the weekday themselves are no features: all requests of a training window may have the same moment, so
    they would tell windows apart and nothing else."""
    in_last: NDArray[np.bool_]
    """bool[events]: whether the event belongs to the last session."""


def sessions_of(timestamps: Ids, as_of: int) -> Sessions:
    """The sessions behind events at `timestamps`, oldest first. Shares are `MISSING` without any event."""
    n = len(timestamps)
    if not n:
        return Sessions(np.asarray([0.0, 0.0, 0.0, MISSING, MISSING], np.float32), np.empty(0, np.bool_))
    begins = np.flatnonzero(timestamps[1:] - timestamps[:-1] > SESSION_GAP_SECONDS)
    begin = int(begins[-1]) + 1 if len(begins) else 0
    last = np.arange(n) >= begin
    lasts = as_of - int(timestamps[-1]) <= SESSION_GAP_SECONDS
    day, second = divmod(as_of, int(DAY))
    days, seconds = np.divmod(timestamps, int(DAY))
    apart = np.abs(seconds - second)
    near = np.count_nonzero(np.minimum(apart, int(DAY) - apart) <= HOUR_WIDTH * 3_600)
    weekend = (day + _THURSDAY) % 7 >= _SATURDAY
    alike = np.count_nonzero(((days + _THURSDAY) % 7 >= _SATURDAY) == weekend)
    found = [math.log1p(len(begins) + 1), math.log1p(n - begin), lasts, near / n, alike / n]
    return Sessions(np.asarray(found, np.float32), last)
