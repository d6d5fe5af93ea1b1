"""How a model that learns by epochs is tuned in a budget: a short race at equal cost, then early stopping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import optuna
from optuna.trial import Trial

from peers.cost import BudgetMeter, cpu_seconds
from peers.trials import Settings, Space, ask, best_of, finished_trials, record

QUALIFYING_SHARE = 0.06
CONTESTANT_SECONDS = 600.0
MAX_CONTESTANTS = 4
PATIENCE = 5
RESERVE = 0.03


class EpochLearner(Protocol):
    """What is trained by epochs."""

    def epoch(self) -> None:
        """One pass over the rows."""

    def keep(self) -> None:
        """Remembers the weights as they are now."""

    def go_back(self) -> None:
        """Takes the weights that were kept last."""


@dataclass
class Contestant:
    """A model in the race: its validation figure after each epoch and what it has cost, evaluation included."""

    trial: Trial
    settings: Settings
    learner: EpochLearner
    curve: list[float] = field(default_factory=list)
    seconds: float = 0.0
    epoch_seconds: float = 0.0

    def advance(self, evaluate: Callable[[Any], float]) -> None:
        """One epoch and its figure."""
        start = cpu_seconds()
        self.learner.epoch()
        self.epoch_seconds = cpu_seconds() - start
        self.curve.append(evaluate(self.learner))
        if not self.rested:
            self.learner.keep()
        self.seconds += cpu_seconds() - start
        self.trial.set_user_attr("curve", [round(figure, 5) for figure in self.curve])
        self.trial.set_user_attr("epoch_seconds", round(self.epoch_seconds, 2))

    @property
    def best_epoch(self) -> int:
        """The number of epochs, from 1, after which the figure was highest."""
        return self.curve.index(max(self.curve)) + 1

    @property
    def rested(self) -> int:
        """Epochs since the best one."""
        return len(self.curve) - self.best_epoch


def contestants_for(budget_seconds: float, published: int) -> int:
    """How many settings a budget lets race: all published ones, and one more for each ten CPU-minutes beyond."""
    return min(MAX_CONTESTANTS, max(published, int(budget_seconds // CONTESTANT_SECONDS)))


def qualify(
    study: optuna.Study,
    meter: BudgetMeter,
    *,
    build: Callable[[Settings], EpochLearner],
    evaluate: Callable[[Any], float],
    offer: tuple[list[Settings], Space],
) -> Contestant:
    """Lets each contestant learn for the same CPU time, at least one epoch, and returns the best. The others are
    recorded as pruned; contestants that an earlier, interrupted run has pruned do not run again."""
    published, space = offer
    contestants = contestants_for(meter.budget_seconds, len(published)) - len(finished_trials(study))
    leader: Contestant | None = None
    for _ in range(max(1, contestants)):
        trial, settings = ask(study, published, space)
        runner = Contestant(trial, settings, build(settings))
        while not runner.curve or runner.seconds < QUALIFYING_SHARE * meter.budget_seconds:
            runner.advance(evaluate)
        leader, loser = (runner, leader) if leader is None or runner.curve[-1] > leader.curve[-1] else (leader, runner)
        if loser is not None:
            record(study, loser.trial, max(loser.curve), seconds=loser.seconds, pruned=True)
    assert leader is not None
    return leader


def may_learn(leader: Contestant, meter: BudgetMeter, rows_ratio: float, *, epochs: int) -> bool:
    """Whether one more epoch leaves room for the refit, one pass, and patience and `epochs` allow it."""
    step = leader.seconds / len(leader.curve)
    refit = leader.epoch_seconds * rows_ratio
    room = meter.left() - step - refit > RESERVE * meter.budget_seconds
    return room and leader.rested < PATIENCE and len(leader.curve) < epochs


def train(
    leader: Contestant, meter: BudgetMeter, evaluate: Callable[[Any], float], *, rows_ratio: float, epochs: int
) -> bool:
    """Trains the leader on; True where validation stopped it (or `epochs`), False where the budget did."""
    while may_learn(leader, meter, rows_ratio, epochs=epochs):
        leader.advance(evaluate)
    return leader.rested >= PATIENCE or len(leader.curve) >= epochs


def run_race(
    study: optuna.Study,
    meter: BudgetMeter,
    *,
    build: Callable[[Settings], EpochLearner],
    evaluate: Callable[[Any], float],
    offer: tuple[list[Settings], Space],
    rows_ratio: float,
    epochs: int,
) -> Any:
    """Qualification and training, recorded in the study; returns the winner as it was after its best epoch.

    None where the study already has its winner. The winner's trial carries `epochs` (the best one), `converged`,
    `curve` and `epoch_seconds`.
    """
    if best_of(study) is not None:
        return None
    leader = qualify(study, meter, build=build, evaluate=evaluate, offer=offer)
    converged = train(leader, meter, evaluate, rows_ratio=rows_ratio, epochs=epochs)
    leader.trial.set_user_attr("epochs", leader.best_epoch)
    leader.trial.set_user_attr("converged", converged)
    record(study, leader.trial, max(leader.curve), seconds=leader.seconds)
    leader.learner.go_back()
    return leader.learner
