"""The trial table of one peer on one rows folder: Optuna's study in sqlite, so that an interrupted run continues."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

Settings = dict[str, Any]
Space = Mapping[str, BaseDistribution]
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_study(folder: Path, name: str, seed: int) -> optuna.Study:
    """The study `name` in folder/trials.sqlite, created where it is absent. Trials that an interruption left running
    are failed: what they lost is repeated and is not counted."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{folder / 'trials.sqlite'}",
        direction="maximize",
        load_if_exists=True,
    )
    # A sampler that is seeded alike after an interruption would draw what it has drawn before.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.get_trials(deepcopy=False)))
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
    return study


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: completed and pruned ones, in order."""
    return study.get_trials(deepcopy=False, states=COUNTED)


def seconds_of(study: optuna.Study) -> float:
    """The CPU seconds of the trials that count."""
    return float(sum(trial.user_attrs["cpu_seconds"] for trial in finished_trials(study)))


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """The completed trial with the highest metric, the earliest of equals; None before the first."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(done, key=lambda trial: (trial.value or 0.0, -trial.number)) if done else None


def ask(study: optuna.Study, published: Sequence[Settings], space: Space) -> tuple[Trial, Settings]:
    """The next trial and its settings: published ones that were not asked for yet come first, then the sampler's.

    A published setting without a distribution in `space` stays as it is published in every trial.
    """
    asked = study.get_trials(deepcopy=False, states=(*COUNTED, TrialState.RUNNING))
    tried = [trial.user_attrs.get("settings") for trial in asked]
    waiting = [settings for settings in published if settings not in tried]
    if waiting:
        study.enqueue_trial({name: value for name, value in waiting[0].items() if name in space})
    trial = study.ask(fixed_distributions=dict(space))
    settings = dict(waiting[0]) if waiting else {**published[0], **trial.params}
    trial.set_user_attr("settings", settings)
    return trial, settings


def record(study: optuna.Study, trial: Trial, value: float, *, seconds: float, pruned: bool = False) -> None:
    """Records what a trial reached and cost; a pruned trial's value is kept as its last intermediate one."""
    trial.set_user_attr("cpu_seconds", round(seconds, 2))
    trial.set_user_attr("metric", value)
    if pruned:
        trial.report(value, step=1)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)


def table(study: optuna.Study) -> list[dict[str, Any]]:
    """One entry a trial, in order: settings, metric, cpu_seconds, and what else was recorded of it."""
    return [
        {**trial.user_attrs, "number": trial.number, "state": trial.state.name.lower()}
        for trial in finished_trials(study)
    ]


def tune(
    study: optuna.Study,
    try_out: Callable[[Settings], float],
    *,
    published: Sequence[Settings],
    space: Space,
    may_continue: Callable[[float], bool],
    seconds: Callable[[], float],
) -> None:
    """Tries settings one after another while `may_continue(seconds of the longest trial so far)`.

    The first published settings are always tried. `seconds` is the CPU clock that trials are measured by.
    """
    longest = max((trial.user_attrs["cpu_seconds"] for trial in finished_trials(study)), default=0.0)
    while best_of(study) is None or may_continue(longest):
        trial, settings = ask(study, published, space)
        start = seconds()
        value = try_out(settings)
        cost = seconds() - start
        record(study, trial, value, seconds=cost)
        longest = max(longest, cost)
