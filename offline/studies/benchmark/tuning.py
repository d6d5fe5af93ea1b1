"""Settings of our models, searched on validation within the budget: the present ones are the first trial."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from pydantic import BaseModel

from offline.evaluation.evaluate import produce_lists, request_values
from offline.steps.cost import Meter
from offline.studies.benchmark.config import TuneConfig
from offline.studies.benchmark.headlines import chosen_metric, measured_group, special_moment
from offline.studies.benchmark.spaces import SPACES, SearchedSettings, overridden, present, suggested
from offline.workflow.workflow import Workflow
from recsys.errors import CannotStart

log = logging.getLogger(__name__)

RANKER = "ranker"
Objective = Callable[[SearchedSettings], float]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a search found."""

    model: str
    metric: str
    settings: SearchedSettings
    value: float
    cpu_seconds: float
    trials: list[dict[str, Any]]

    def save(self, folder: Path) -> None:
        """Writes `<model>.toml`, only what was chosen, which later commands read, and `<model>.json`, the trials."""
        folder.mkdir(parents=True, exist_ok=True)
        table = {"model": self.model, "metric": self.metric, "cpu_seconds": self.cpu_seconds, "trials": self.trials}
        (folder / f"{self.model}.json").write_text(json.dumps(table, indent=1) + "\n", "utf-8")
        (folder / f"{self.model}.toml").write_text(toml_of(self.settings), "utf-8")


def tune(config: TuneConfig, model: str) -> Tuned:
    """Continues the search of this model, protocol and data set until the budget or the trials are spent.

    Raises CannotStart for a model without a search space, and for requests at a moment that is not the protocol's own:
    both moments read the same settings, which must not be chosen by what only one of them can see.
    """
    if moment := special_moment(config.split):
        raise CannotStart(
            f"split.moment: requests at the time of the {moment} know what peers of {config.protocol} do not, and what "
            f"is chosen on them would be read for the usual requests, too, from {config.settings / config.place}; tune "
            "without --split.moment, and give it to `benchmark`, which takes the settings over"
        )
    if model not in SPACES:
        raise CannotStart(f"models: nothing is searched for {model!r}; choose from {', '.join(SPACES)}")
    return search(config, model, _objective(config, model), rows=Workflow(config.offline()).tables.key)


def search(config: TuneConfig, model: str, objective: Objective, *, rows: str) -> Tuned:
    """The search itself. Trials of an earlier run on the same `rows`, a digest of the data, count, their CPU time too.

    The present settings are tried until a trial of them ends: one that was killed is no trial of anything.
    """
    storage = config.bench_root / "tuning.db"
    storage.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{storage}",
        study_name=study_name(config, model, rows),
        direction="maximize",
        load_if_exists=True,
    )
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    space = SPACES[model]
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.WAITING)):
        study.enqueue_trial(dict(present(space, config)))
    while len(finished(study)) < config.max_trials and spent(study) < config.budget_minutes * 60:
        trial = study.ask()
        settings = suggested(space, trial)
        with Meter() as meter:
            value = objective(settings)
        trial.set_user_attr("settings", settings)
        trial.set_user_attr("cpu_seconds", meter.cost.cpu_seconds)
        study.tell(trial, value)
        log.info("tune %s, trial %d: %.5f in %.0f CPU s, %s", model, trial.number, value, spent(study), settings)
    best = max(finished(study), key=lambda trial: (trial.value or 0.0, -trial.number))
    return Tuned(
        model,
        chosen_metric(config.protocol),
        dict(best.user_attrs["settings"]),
        float(best.value or 0.0),
        round(spent(study), 1),
        [_record(trial) for trial in finished(study)],
    )


def study_name(config: TuneConfig, model: str, rows: str) -> str:
    """Place, model and a digest of the rows, the space, and the settings that are not searched but decide a value.

    A channel is evaluated alone, so settings of other models are not among them; a ranker on the candidates of all.
    """
    sections = {name for name, value in config if isinstance(value, BaseModel)}
    if model != RANKER:
        sections = {"split", "text", *(key.split(".")[0] for key in SPACES[model])}
    fixed = config.model_dump(mode="json", include={"seed", "max_requests", *sections})
    for key in SPACES[model]:
        *sections_of_key, name = key.split(".")
        del reduce(getitem, sections_of_key, fixed)[name]
    parts = json.dumps([rows, repr(SPACES[model]), fixed], sort_keys=True)
    return f"{config.place}/{model}/{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials with a value, in order."""
    return [trial for trial in study.trials if trial.state == TrialState.COMPLETE]


def spent(study: optuna.Study) -> float:
    """CPU seconds of all finished trials."""
    return sum(float(trial.user_attrs["cpu_seconds"]) for trial in finished(study))


def toml_of(settings: SearchedSettings) -> str:
    """Sections and values; JSON's numbers, strings and booleans are TOML's. Spaces have no null, for TOML has none."""
    sections: dict[str, list[str]] = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{name} = {json.dumps(value)}")
    return "\n".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())


def _objective(config: TuneConfig, model: str) -> Objective:
    """Trains with the settings and evaluates on validation; what does not depend on them is not trained again."""

    def evaluate_channel(settings: SearchedSettings) -> float:
        workflow = Workflow(_only(overridden(config.offline(), settings), model))
        fold = workflow.plan.validation
        models = workflow.channels_alone(fold.training_view)
        kind = workflow.plan.labels
        asked = fold.ask(models.snapshot, kind, max_users=config.max_requests, seed=config.seed)
        _, measured = measured_group(workflow.plan, kind, asked)
        values = request_values(produce_lists(models, asked, [model])[model], asked)
        return float(np.mean(values[chosen_metric(config.protocol)][measured]))

    def evaluate_ranker(settings: SearchedSettings) -> float:
        workflow = Workflow(overridden(config.offline(), settings))
        choice = json.loads((workflow.ranking.choice.folder / "choice.json").read_text("utf-8"))
        return float(choice["ranked"])

    return evaluate_ranker if model == RANKER else evaluate_channel


def _only(config: TuneConfig, channel: str) -> TuneConfig:
    """The same with one channel."""
    return config.model_copy(update={"serving": config.serving.model_copy(update={"channels": (channel,)})})


def _record(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "settings": trial.user_attrs["settings"],
        "value": trial.value,
        "cpu_seconds": trial.user_attrs["cpu_seconds"],
    }
