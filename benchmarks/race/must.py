"""What the race must show, row by row, next to what it has shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from race.figures import Spread
from race.results import AGAINST, OURS, PLAIN, WITH_KERNELS, Closed, Race

FLOOR_BATCH = 16
OPEN_SHARE = "0.7"
DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `must` and `aim` are bounds: from below where `at_least`, otherwise from above."""

    figure: str
    must: float
    aim: float | None
    measure: Callable[[Race], Spread | None]
    """None where the race has not measured it."""
    at_least: bool = False
    percent: bool = False

    def met(self, measured: Spread) -> bool:
        """Whether the median is within `must`."""
        return measured.median >= self.must if self.at_least else measured.median <= self.must


def _closed(race: Race, name: str, in_flight: int) -> Sequence[Closed]:
    return race.closed.get(name, {}).get(str(in_flight), [])


def _ratio(other: str, in_flight: int, field: str) -> Callable[[Race], Spread | None]:
    """Ours divided by another's, round by round."""

    def measure(race: Race) -> Spread | None:
        ours, theirs = _closed(race, OURS, in_flight), _closed(race, other, in_flight)
        if not ours or len(ours) != len(theirs):
            return None
        return Spread.of_ratios([getattr(one, field) for one in ours], [getattr(one, field) for one in theirs])

    return measure


def _floor(race: Race) -> Spread | None:
    ours, theirs = (race.floors.get(name, {}).get(str(FLOOR_BATCH), []) for name in (OURS, AGAINST))
    return Spread.of_ratios(ours, theirs) if ours and len(ours) == len(theirs) else None


def _degraded(race: Race) -> Spread | None:
    shares = [loop.shares["degraded"] for loop in _closed(race, OURS, 64)]
    return Spread.of(shares) if shares else None


def _tail(race: Race) -> Spread | None:
    """p99 of the open loop by the median p50 of one request at a time."""
    loops, alone = race.opened.get(OURS, {}).get(OPEN_SHARE, []), _closed(race, OURS, 1)
    if not loops or not alone:
        return None
    unloaded = Spread.of([loop.p50_ms for loop in alone]).median
    return Spread.of([loop.p99_ms / unloaded for loop in loops])


def _pss(*, demo: bool) -> Callable[[Race], Spread | None]:
    def measure(race: Race) -> Spread | None:
        found = [memory["pss"] for data, memory in race.memory_by_dataset.items() if (data == DEMO) == demo]
        return Spread.of(found) if found else None

    return measure


def _goodput(race: Race) -> Spread | None:
    """Of the most that it answered at any load."""
    loads = race.overloaded.get(OURS, [])
    if not loads:
        return None
    best = max(
        Spread.of([loop.per_second for loop in loops]).median
        for by_load in (race.closed[OURS], race.opened.get(OURS, {}))
        for loops in by_load.values()
    )
    return Spread.of([load.per_second / best for load in loads])


def _late(race: Race) -> Spread | None:
    loads = race.overloaded.get(OURS, [])
    return Spread.of([load.answered_p99_ms / 1e3 / race.open_deadline_seconds for load in loads]) if loads else None


def _recovery(race: Race) -> Spread | None:
    loads = race.overloaded.get(OURS, [])
    return Spread.of([load.recovery_seconds for load in loads]) if loads else None


ROWS = (
    Row("requests/s at 64 ÷ FastAPI", 1.0, 1.5, _ratio(PLAIN, 64, "per_second"), at_least=True),
    Row("CPU per request at 64 ÷ FastAPI", 0.85, 0.6, _ratio(PLAIN, 64, "cpu")),
    Row("CPU per request at 64 ÷ FastAPI with our kernels", 1.1, 0.9, _ratio(WITH_KERNELS, 64, "cpu")),
    Row("CPU per request at 16 ÷ FastAPI", 1.3, 1.0, _ratio(PLAIN, 16, "cpu")),
    Row("the floor, CPU per request in batches of 16 ÷ before", 0.6, 0.4, _floor),
    Row("degraded at 64", 0.0, 0.0, _degraded, percent=True),
    Row("p50 of one request at a time ÷ before", 0.85, 0.6, _ratio(AGAINST, 1, "p50_ms")),
    Row("p99 at 70 % of capacity ÷ p50 of one request at a time", 3.0, 2.0, _tail),
    Row("PSS of our processes, demo, MiB", 450, 400, _pss(demo=True)),
    Row("PSS of our processes, larger data, MiB", 500, 400, _pss(demo=False)),
    Row("answered in time at 4 × capacity ÷ the most at any load", 0.9, None, _goodput, at_least=True),
    Row("p99 of what is not refused at 4 × capacity ÷ deadline", 1.0, None, _late),
    Row("seconds until all is answered again after it", 2.0, None, _recovery),
)
"""Before: the checkout of `--against`."""
