"""When the user comes: sessions, the hour and the weekday, as of a moment."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Sessions:
    """The rhythm of one history, as of a moment."""

    numbers: NDArray[np.float32]
    """float32[len(SESSION_NAMES)]: logarithm of 1 + sessions, and of 1 + events of the last one; 1 where it still goes
    on; the share of events within three hours of the moment's hour, and on its kind of day (weekend or not), in UTC.

    The hour and the weekday themselves are no features: all requests of a training window may have the same moment, so
    they would tell windows apart and nothing else."""
    in_last: NDArray[np.bool_]
    """bool[events]: whether the event belongs to the last session."""


def sessions_of(timestamps: Ids, as_of: int) -> Sessions:
    """The sessions behind events at `timestamps`, oldest first. Shares are `MISSING` without any event."""
    hour, weekday = _clock(np.asarray([as_of]))
    if not len(timestamps):
        return Sessions(np.asarray([0.0, 0.0, 0.0, MISSING, MISSING], np.float32), np.empty(0, np.bool_))
    numbers = np.concatenate([[0], np.cumsum(np.diff(timestamps) > SESSION_GAP_SECONDS)])
    last = numbers == numbers[-1]
    going_on = as_of - int(timestamps[-1]) <= SESSION_GAP_SECONDS
    hours, weekdays = _clock(timestamps)
    apart = np.abs(hours - hour)
    near = np.minimum(apart, 24.0 - apart) <= HOUR_WIDTH
    alike = (weekdays >= 5) == (weekday >= 5)
    found = [np.log1p(numbers[-1] + 1), np.log1p(last.sum()), going_on, near.mean(), alike.mean()]
    return Sessions(np.asarray(found, np.float32), last)


def _clock(timestamps: Ids) -> tuple[NDArray[np.float64], Ids]:
    """Hours since midnight and weekday (0: Monday), in UTC; 1970-01-01 was a Thursday."""
    hours = (timestamps % int(DAY)).astype(np.float64) / 3_600.0
    return hours, (timestamps // int(DAY) + 3) % 7
