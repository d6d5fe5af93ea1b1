"""From a race to its JSON and its tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from race.must import ROWS
from race.report import must_table, sections
from race.results import AGAINST, LACKING, OURS, PLAIN, Closed, Open, Overload, Race

NONE = dict.fromkeys(LACKING, 0.0)
FACTS = {
    "dataset": "demo",
    "items": 5,
    "count": 10,
    "commit": "c",
    "before": "b",
    "rounds": 2,
    "date": "2026-01-01",
    "users": {"1": 3},
    "processor": "p",
    "python": "3",
    "kernels": "compiled",
    "command": "make race",
}


def race() -> Race:
    """Two rounds: the second is twice as slow for everybody."""
    made = Race(dict(FACTS), 1.0, 0.25)
    for name, speed in ((OURS, 100.0), (PLAIN, 80.0), (AGAINST, 20.0)):
        loops = [Closed(speed * slow, 1e3 / speed, 20.0, {"gateway": 1.0 / slow}, NONE) for slow in (1.0, 0.5)]
        made.closed[name] = {load: list(loops) for load in ("1", "16", "64")}
    made.opened[OURS] = {"0.7": [Open(70, 69, 11.0, 25.0, {"gateway": 1.0}, NONE, 0.1, 0.02)] * 2}
    made.overloaded[OURS] = [Overload(400, 80.0, 200.0, NONE | {"refused": 0.8}, 1.5, 0.1, 0.02)] * 2
    made.floors = {OURS: {"1": [0.9, 1.8], "16": [0.5, 1.0]}, AGAINST: {"1": [2.0, 4.0], "16": [1.0, 2.0]}}
    made.memory_by_dataset = {"demo": {"rss": 300.0, "pss": 271.0}}
    made.memory = {OURS: made.memory_by_dataset["demo"]}
    made.absent = {"ray serve": "did not start: no room"}
    return made


def cells() -> dict[str, list[str]]:
    """The table of what must be reached: by figure, its other cells."""
    lines = must_table(race()).splitlines()[2:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def test_every_row_says_whether_it_is_met() -> None:
    found = cells()
    assert list(found) == [row.figure for row in ROWS]
    assert found["requests/s at 64 ÷ FastAPI"] == ["≥ 1.00", "≥ 1.50", "1.25 [1.25, 1.25]", "yes"]
    assert found["the floor, CPU per request in batches of 16 ÷ before"][2:] == ["0.50 [0.50, 0.50]", "yes"]
    assert found["p99 at 70 % of capacity ÷ p50 of one request at a time"][2:] == ["2.50 [2.50, 2.50]", "yes"]
    assert found["answered in time at 4 × capacity ÷ the most at any load"][2:] == ["1.07 [1.07, 1.07]", "yes"]
    assert found["p99 of what is not refused at 4 × capacity ÷ deadline"][2:] == ["0.80 [0.80, 0.80]", "yes"]
    assert found["CPU per request at 64 ÷ FastAPI"][2:] == ["1.00 [1.00, 1.00]", "**no**"]
    assert found["CPU per request at 64 ÷ FastAPI with our kernels"][2:] == ["", "not measured"]


def test_degraded_answers_are_a_share() -> None:
    made = race()
    made.closed[OURS]["64"] = [replace(loop, shares=NONE | {"degraded": 0.125}) for loop in made.closed[OURS]["64"]]
    assert "| degraded at 64" in must_table(made)
    assert "12.5% [12.5%, 12.5%]" in must_table(made)


def test_a_race_is_the_same_after_saving(tmp_path: Path) -> None:
    path = tmp_path / "serving" / "demo.json"
    race().save(path)
    assert Race.load(path) == race()
    assert sections(Race.load(path)) == sections(race())


def test_a_server_that_did_not_start_is_named() -> None:
    title, made = sections(race())[-1]
    assert title == "Did not take part"
    assert made.splitlines()[-1] == "| ray serve | did not start: no room |"
