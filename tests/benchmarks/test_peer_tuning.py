"""Tuning of peers: published settings first, the budget held, interruptions survived."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from peers import race
from peers.cost import BudgetMeter, cpu_seconds, peak_memory_bytes
from peers.program import study_name
from peers.race import contestants_for, run_race
from peers.rows import Events, Requests, RowsFolder
from peers.trials import Settings, ask, best_of, open_study, record, seconds_of, table, tune
from scipy import sparse

PUBLISHED = ({"x": 1.0, "kept": "as published"}, {"x": 4.0, "kept": "as published"})
SPACE = {"x": FloatDistribution(0.0, 5.0)}


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return open_study(tmp_path, "toy", 3)


def toy() -> RowsFolder:
    """Rows without an event."""
    nothing = np.zeros(0, dtype=np.int64)
    events = Events(nothing, nothing, nothing, nothing.astype(np.float32), 0, 0)
    requests = Requests(nothing, nothing, events)
    relevant = sparse.csr_matrix((0, 1))
    return RowsFolder({}, nothing, nothing.astype(bool), events, events, requests, requests, relevant, "")


class StepClock:
    """CPU time that a test turns forward."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_published_settings_are_the_first_trials_and_the_rest_keeps_what_is_not_searched(study: optuna.Study) -> None:
    tried: list[Settings] = []
    clock = StepClock()

    def try_out(settings: Settings) -> float:
        tried.append(settings)
        clock.now += 10
        return -abs(settings["x"] - 3)

    tune(
        study,
        try_out,
        published=PUBLISHED,
        space=SPACE,
        may_continue=lambda longest: clock.now + longest <= 60,
        seconds=clock,
    )
    assert tried[:2] == list(PUBLISHED)
    assert len(tried) == 6
    assert {settings["kept"] for settings in tried} == {"as published"}
    best = best_of(study)
    assert best is not None
    assert best.user_attrs["settings"]["x"] == min((s["x"] for s in tried), key=lambda x: abs(x - 3))
    assert seconds_of(study) == 60
    assert [entry["cpu_seconds"] for entry in table(study)] == [10.0] * 6


def test_an_interrupted_trial_is_repeated_and_not_counted(tmp_path: Path) -> None:
    first = open_study(tmp_path, "toy", 3)
    trial, settings = ask(first, PUBLISHED, SPACE)
    record(first, trial, 0.5, seconds=7)
    ask(first, PUBLISHED, SPACE)
    again = open_study(tmp_path, "toy", 3)
    assert seconds_of(again) == 7
    assert [entry["settings"] for entry in table(again)] == [settings]
    assert ask(again, PUBLISHED, SPACE)[1] == PUBLISHED[1]


def test_what_earlier_runs_used_counts_against_the_budget() -> None:
    meter = BudgetMeter(100, before=60)
    assert meter.left() == pytest.approx(40, abs=5)
    assert peak_memory_bytes() > 2**20


class Toy:
    """Learns `x` a pass, up to a limit, and takes its CPU time from a clock."""

    def __init__(self, settings: Settings, clock: StepClock) -> None:
        self.rate, self.clock, self.passes, self.kept = settings["x"], clock, 0, 0

    def epoch(self) -> None:
        self.passes += 1
        self.clock.now += 10

    def keep(self) -> None:
        self.kept = self.passes

    def go_back(self) -> None:
        self.passes = self.kept


class ScriptedBudget(BudgetMeter):
    """A meter on a test's clock."""

    def __init__(self, budget_seconds: float, clock: StepClock) -> None:
        self.clock = clock
        super().__init__(budget_seconds)

    def spent(self) -> float:
        return self.clock.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StepClock:
    clock = StepClock()
    monkeypatch.setattr(race, "cpu_seconds", clock)
    return clock


def race_on(study: optuna.Study, budget: ScriptedBudget, clock: StepClock, top: int) -> Any:
    return run_race(
        study,
        budget,
        build=lambda settings: Toy(settings, clock),
        evaluate=lambda toy: toy.rate * min(toy.passes, top),
        offer=(list(PUBLISHED), SPACE),
        rows_ratio=1.0,
        epochs=100,
    )


def test_the_better_contestant_trains_on_until_validation_stops_it(study: optuna.Study, clock: StepClock) -> None:
    learner = race_on(study, ScriptedBudget(1000, clock), clock, top=8)
    loser, winner = table(study)
    assert (loser["state"], winner["state"]) == ("pruned", "complete")
    assert winner["settings"] == PUBLISHED[1]
    assert winner["epochs"] == 8
    assert winner["converged"] is True
    assert len(winner["curve"]) == 8 + race.PATIENCE
    assert learner.passes == 8


def test_the_budget_leaves_room_for_the_refit(study: optuna.Study, clock: StepClock) -> None:
    budget = ScriptedBudget(300, clock)
    race_on(study, budget, clock, top=100)
    winner = table(study)[-1]
    assert winner["converged"] is False
    assert winner["epochs"] == len(winner["curve"])
    assert 300 - 0.03 * 300 - 20 <= clock.now + 10 <= 300


def test_a_race_that_is_over_is_not_run_again(study: optuna.Study, clock: StepClock) -> None:
    race_on(study, ScriptedBudget(300, clock), clock, top=2)
    before = clock.now
    assert race_on(study, ScriptedBudget(300, clock), clock, top=2) is None
    assert clock.now == before


def test_more_contestants_race_for_larger_budgets() -> None:
    assert [contestants_for(minutes * 60, 2) for minutes in (5, 25, 30, 60, 600)] == [2, 2, 3, 4, 4]


def test_a_larger_budget_races_again_and_continues_other_searches() -> None:
    rows = replace(toy(), fingerprint="1f")

    def name(model: str, minutes: float, settings: Path | None = None) -> str:
        return study_name(Namespace(model=model, budget_minutes=minutes, settings=settings), rows)

    assert name("ease", 1.5) == name("ease", 40)
    assert name("sasrec", 1.5) != name("sasrec", 40)
    assert name("ease", 40) != name("ease", 40, Path("settings.json")), "trials of a search are no trials of this run"


def test_cpu_seconds_grow_with_work() -> None:
    start = cpu_seconds()
    assert sum(range(2_000_000)) > 0
    assert cpu_seconds() > start
