"""What a fault is, what it may cost, and the row that says what it did cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.faults.system import Setup, System


class NotPossible(Exception):
    """This machine does not let the fault be caused; the text says why."""


class Broken(Exception):
    """Something that must hold while the fault lasts did not; the text says what."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The bars. Lost and doubled events are never allowed."""

    outage_seconds: float = 0.0
    """The longest stretch without an answer; 0: no request may fail."""
    late: bool = False
    unacknowledged: bool = False
    """Whether RecordEvents may be refused: where the events' own disk is what fails."""
    recovery_seconds: float = 30.0
    """From the moment the fault is taken back until the last request that failed, was late or degraded."""
    memory: float | None = None
    """Most resident memory of a server, as a multiple of its own before the fault; None: not looked at."""


NOTHING = Allowed()
RESTART = Allowed(outage_seconds=2.0, late=True)
"""The gateway's own restart."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which the world goes wrong."""

    name: str
    about: str
    cause: Callable[[System, float], AbstractContextManager[None]]
    """`cause(system, seconds)` does harm when it is entered, and takes it back when it is left. It may take `seconds`
    for what needs time. Raises NotPossible, or Broken."""
    allowed: Allowed = NOTHING
    prepare: Callable[[Setup], None] = lambda setup: None
    """Changes how the system is started."""
    hold: bool = True
    """Whether the harm lasts for the time of a run; if not, the system heals itself: a killed server."""


@dataclass(slots=True)
class Row:
    """What callers saw of one fault."""

    fault: str
    about: str
    requests: int = 0
    failed: int = 0
    outage_seconds: float = 0.0
    late: int = 0
    degraded: int = 0
    events: int = 0
    """Acknowledged."""
    unacknowledged: int = 0
    """Attempts to record that were not acknowledged; each was sent again."""
    lost: int = 0
    doubled: int = 0
    recovery_seconds: float = 0.0
    rss_mib: float = 0.0
    """Of the server that grew most, at its worst."""
    rss_growth: float = 0.0
    """That, as a multiple of its own before the fault."""
    errors: list[str] = field(default_factory=list)
    """Kinds of errors that callers saw."""
    problems: list[str] = field(default_factory=list)
    """Bars that were broken; empty if the fault was survived."""
    not_possible: str = ""

    def judge(self, allowed: Allowed) -> None:
        """Adds a problem for each bar that is broken."""
        broken = {
            f"{self.failed} failed over {self.outage_seconds:.1f} s, allowed {allowed.outage_seconds:g} s": self.failed
            and (not allowed.outage_seconds or self.outage_seconds > allowed.outage_seconds),
            f"{self.late} late": self.late and not allowed.late,
            f"{self.unacknowledged} times events were not acknowledged": self.unacknowledged
            and not (allowed.unacknowledged or allowed.outage_seconds),
            f"{self.lost} events lost": self.lost,
            f"{self.doubled} events doubled": self.doubled,
            f"recovery took {self.recovery_seconds:.1f} s, allowed {allowed.recovery_seconds:g} s": (
                self.recovery_seconds > allowed.recovery_seconds
            ),
            f"memory grew {self.rss_growth:.2f} times": allowed.memory is not None and self.rss_growth > allowed.memory,
        }
        self.problems += [text for text, is_broken in broken.items() if is_broken]

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        return asdict(self)
