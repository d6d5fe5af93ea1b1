"""A race as tables in Markdown: for the screen and for docs/results/serving.md."""

from __future__ import annotations

from collections.abc import Sequence

from race.figures import Spread
from race.must import ROWS, Row
from race.results import LACKING, OURS, Race


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned for the screen."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def facts(race: Race) -> str:
    """What the race ran on and with, in a sentence or two."""
    known = race.facts
    users = ", ".join(str(events) for events in known["users"].values())
    before = f", before: {known['before']}" if known["before"] else ""
    return (
        f"{known['dataset']}, {known['items']:,} items, {known['count']} per answer; commit {known['commit']}{before}; "
        f"{known['rounds']} rounds, {known['date']}.\nUsers of {users} events. {known['processor']}, Python "
        f"{known['python']}, kernels {known['kernels']}."
    )


def must_table(race: Race) -> str:
    """Every figure with its bound, its aim, what was measured, and whether the bound is met."""
    rows = []
    for row in ROWS:
        measured = row.measure(race)
        aim = "" if row.aim is None else _bound(row, row.aim)
        met = "not measured" if measured is None else "yes" if row.met(measured) else "**no**"
        rows.append([row.figure, _bound(row, row.must), aim, "" if measured is None else _spread(row, measured), met])
    return table(["figure", "must", "aim", "measured", "met"], rows)


def _bound(row: Row, value: float) -> str:
    return f"{'≥' if row.at_least else '≤'} {_value(row, value)}"


def _value(row: Row, value: float) -> str:
    if row.percent:
        return f"{value:.1%}"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _spread(row: Row, spread: Spread) -> str:
    low, high = _value(row, spread.low), _value(row, spread.high)
    return f"{_value(row, spread.median)}" + (f" [{low}, {high}]" if spread.rounds > 1 else "")


def ratios(race: Race) -> str:
    """Ours divided by each other server, round by round: the median and the range."""
    rows = []
    for name, by_load in race.closed.items():
        for in_flight, loops in by_load.items() if name != OURS else ():
            ours = race.closed[OURS][in_flight]
            spreads = [
                Spread.of_ratios([getattr(one, figure) for one in ours], [getattr(one, figure) for one in loops])
                for figure in ("per_second", "cpu", "p50_ms")
            ]
            cells = [f"{spread.median:.2f} [{spread.low:.2f}, {spread.high:.2f}]" for spread in spreads]
            rows.append([f"ours ÷ {name}", in_flight, *cells])
    return table(["", "in flight", "requests/s", "CPU per request", "p50"], rows)


def closed_table(race: Race) -> str:
    """Closed loops: medians over the rounds, and the largest share of what does not count."""
    rows = []
    for name, by_load in race.closed.items():
        for in_flight, loops in by_load.items():
            figures = [
                _median([getattr(loop, figure) for loop in loops]) for figure in ("per_second", "p50_ms", "p99_ms")
            ]
            rows.append(
                [
                    *(name, in_flight, f"{figures[0]:.0f}", *(f"{figure:.1f}" for figure in figures[1:])),
                    *(f"{_median([loop.cpu for loop in loops]):.2f}", _lacking([loop.shares for loop in loops])),
                ]
            )
    header = ["server", "in flight", "requests/s", "p50, ms", "p99", "CPU per request, ms", "does not count, at most"]
    return table(header, rows)


def parts_table(race: Race) -> str:
    """CPU by process of every server, at the highest load."""
    rows = []
    for name, by_load in race.closed.items():
        in_flight, loops = list(by_load.items())[-1]
        parts = {part: _median([loop.cpu_ms.get(part, 0.0) for loop in loops]) for part in loops[0].cpu_ms}
        rows.append(
            [name, in_flight, ", ".join(f"{part} {value:.2f}" for part, value in parts.items() if value >= 0.005)]
        )
    return table(["server", "in flight", "CPU per request by process, ms"], rows)


def open_table(race: Race) -> str:
    """Open loops: medians over the rounds."""
    rows = []
    for name, by_load in race.opened.items():
        for share, loops in by_load.items():
            figures = [_median([getattr(loop, figure) for loop in loops]) for figure in ("p50_ms", "p99_ms")]
            rate = _median([loop.rate for loop in loops])
            cpu = _median([sum(loop.cpu_ms.values()) for loop in loops])
            rows.append(
                [
                    *(name, f"{float(share):.0%}", f"{rate:.0f}", *(f"{figure:.1f}" for figure in figures)),
                    *(f"{cpu:.2f}", _lacking([loop.shares for loop in loops])),
                    f"{_median([loop.lag_ms for loop in loops]):.1f}",
                ]
            )
    header = ["server", "of its capacity", "requests/s", "p50, ms", "p99", "CPU per request, ms"]
    return table([*header, "does not count, at most", "sent late, p99, ms"], rows)


def overload_table(race: Race) -> str:
    """Overload: medians over the rounds."""
    rows = []
    for name, loads in race.overloaded.items():
        capacity = _median([loop.per_second for loop in race.closed[name]["64"]])
        good = _median([load.per_second for load in loads])
        shares = {share: _median([load.shares[share] for load in loads]) for share in LACKING}
        rows.append(
            [
                *(name, f"{_median([load.rate for load in loads]):.0f}", f"{good:.0f}", f"{good / capacity:.2f}"),
                ", ".join(f"{share} {value:.0%}" for share, value in shares.items() if value >= 0.005),
                f"{_median([load.answered_p99_ms for load in loads]):.0f}",
                f"{_median([load.recovery_seconds for load in loads]):.1f}",
                f"{_median([load.lag_ms for load in loads]):.1f}",
            ]
        )
    header = ["server", "requests/s", "answered in time, per second", "÷ capacity", "the others"]
    header += ["p99 of what is not refused, ms", "until all is answered again, s", "sent late, p99, ms"]
    return table(header, rows)


def floor_table(race: Race) -> str:
    """CPU of one process and one thread."""
    batches = list(next(iter(race.floors.values()), {}))
    rows = [[name, *(f"{_median(by_batch[batch]):.2f}" for batch in batches)] for name, by_batch in race.floors.items()]
    return table(["one process, one thread", *(f"batch {batch}, ms" for batch in batches)], rows)


def memory_table(race: Race) -> str:
    """Memory of every server, alone on the machine."""
    rows = [[name, *(f"{memory[kind]:.0f}" for kind in ("rss", "pss"))] for name, memory in race.memory.items()]
    return table(["server", "RSS, MiB", "PSS, MiB"], rows)


def sections(race: Race) -> list[tuple[str, str]]:
    """Every table that has rows, with its title."""
    made = [("What it must reach", must_table(race)), ("Ours divided by the others, in the same round", ratios(race))]
    made += [("Closed loop", closed_table(race)), ("CPU by process", parts_table(race))] if race.closed else []
    made += [("Open loop", open_table(race))] if race.opened else []
    made += [("Overload", overload_table(race))] if race.overloaded else []
    made += [("The floor", floor_table(race))] if race.floors else []
    made += [("Memory", memory_table(race))] if race.memory else []
    absent = [[name, why] for name, why in race.absent.items()]
    return made + ([("Did not take part", table(["server", "why"], absent))] if absent else [])


def text(race: Race) -> str:
    """For the screen."""
    return "\n\n".join([facts(race), *(f"{title}\n{made}" for title, made in sections(race))])


def _median(values: Sequence[float]) -> float:
    return Spread.of(values).median


def _lacking(shares: Sequence[dict[str, float]]) -> str:
    most = {name: max(one[name] for one in shares) for name in LACKING}
    return ", ".join(f"{name} {share:.1%}" for name, share in most.items() if share > 0) or "0"
