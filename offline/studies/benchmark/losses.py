"""Every loss of the vector channel's towers on the same held-out requests: those of validation, never the test's.

Each training uses what came before the validation window and nothing else, begins from scratch and has as many epochs
as the others of its tower: none is stopped early. Its step is kept in the workspace like any other.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from offline.evaluation.evaluate import BootstrapConfig, produce_lists, request_values, row_of
from offline.evaluation.results import Figure, SystemRow
from offline.metrics.ranking import paired_interval
from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.objectives import ObjectiveName
from offline.studies.benchmark.command import differing_flags
from offline.studies.benchmark.costs import cost_of
from offline.studies.benchmark.headlines import measured_group
from offline.studies.benchmark.loss_result import METRIC, METRICS, LossResult, LossRow
from offline.studies.benchmark.machine import machine, versions
from offline.studies.benchmark.spaces import overridden
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow
from recsys.domain import Ids

CHANNEL = "vector"
FEW_NEGATIVES = 256
"""What the pooled tower's sampled softmax is also tried with."""


class LossesConfig(OfflineConfig):
    """The settings of every offline verb, and where the rows go."""

    out: Path = Field(default=Path("losses.json"), description="where the rows are written")


@dataclass(frozen=True, slots=True)
class Variant:
    """One tower with one loss."""

    loss: str
    settings: Mapping[str, object]
    """What it sets, by dotted key."""
    usual: bool = False
    """Whether it is what the tower is configured with: what the others are compared to."""

    def of(self, config: OfflineConfig) -> OfflineConfig:
        """`config` with this tower alone, from scratch, and as many epochs as it is given."""
        towers = config.settings_of(CHANNEL, TwoTowerConfig)
        patience = {
            "two_tower.pooled.patience": towers.pooled.epochs,
            "two_tower.sequence.patience": towers.sequence.epochs,
        }
        return overridden(config, {**self.settings, **patience}).model_copy(
            update={
                "serving": config.serving.model_copy(update={"channels": (CHANNEL,)}),
                "split": config.split.model_copy(update={"windows": ()}),
            }
        )


@dataclass(frozen=True, slots=True)
class LossTrial:
    """What one variant reached on the requests of the validation window."""

    variant: Variant
    towers: TwoTowerConfig
    measured: SystemRow
    catalogue: int
    known: int
    """Items of the catalogue with an event: those that can be negatives."""
    user_ids: Ids
    """Of the measured requests."""
    values: NDArray[np.float64]
    """float64[measured requests, 1]: the figure that losses are compared by."""
    cpu_seconds: float | None


def variants(config: TwoTowerConfig) -> list[Variant]:
    """Of the sequence tower every loss, of the pooled one its only loss with few negatives, too; usual ones first."""
    names: list[ObjectiveName] = sorted(get_args(ObjectiveName), key=lambda name: name != config.sequence.loss)
    usual_negatives = config.pooled.sampled_negatives
    counts = dict.fromkeys((usual_negatives, FEW_NEGATIVES))
    return [
        *(
            Variant(
                name,
                {"two_tower.tower": "sequence", "two_tower.sequence.loss": name},
                usual=name == config.sequence.loss,
            )
            for name in names
        ),
        *(
            Variant(
                "sampled-softmax",
                {"two_tower.tower": "pooled", "two_tower.pooled.sampled_negatives": count},
                usual=count == usual_negatives,
            )
            for count in counts
        ),
    ]


def compare_losses(config: LossesConfig) -> LossResult:
    """Trains and evaluates every variant; those that an earlier run has trained are not trained again."""
    trials = [evaluate_variant(config, variant) for variant in variants(config.settings_of(CHANNEL, TwoTowerConfig))]
    usual = {trial.towers.tower: trial for trial in trials if trial.variant.usual}
    measured = trials[0].measured
    return LossResult(
        config.split.protocol,
        config.label,
        config.split.labels,
        measured.group,
        measured.users,
        measured.requests,
        trials[0].catalogue,
        rows=tuple(_row(trial, usual[trial.towers.tower], config.bootstrap) for trial in trials),
        command=command_of(config),
        date=datetime.now(UTC).date().isoformat(),
        machine=machine(),
        versions=versions(),
    )


def evaluate_variant(config: OfflineConfig, variant: Variant) -> LossTrial:
    """Trains a variant, unless it is there, and asks it what the validation window asks."""
    own = variant.of(config)
    workflow = Workflow(own)
    fold, kind = workflow.plan.validation, workflow.plan.labels
    models, recall = workflow.channels_alone(fold.training_view), workflow.recall.models(fold.training_view)
    asked = fold.ask(models.snapshot, kind)
    group, chosen = measured_group(workflow.plan, kind, asked)
    made = produce_lists(models, asked, [CHANNEL])[CHANNEL]
    return LossTrial(
        variant,
        own.settings_of(CHANNEL, TwoTowerConfig),
        row_of(CHANNEL, group, made, chosen, snapshot=models.snapshot, targets=asked, config=config.bootstrap),
        catalogue=len(models.snapshot.catalogue),
        known=len(np.unique(models.snapshot.events.item_rows)),
        user_ids=asked.user_ids[chosen],
        values=request_values(made, asked)[METRIC][chosen][:, None],
        cpu_seconds=cost_of([recall.channels[CHANNEL]]).cpu_seconds,
    )


def command_of(config: LossesConfig) -> str:
    """The command that makes the result again, on any machine."""
    out = config.out if not config.out.is_absolute() else Path("path/to") / config.out.name
    words = ["--dataset", config.dataset]
    words += ["--data-dir", f"path/to/{config.label}"] if config.data_dir is not None else []
    flags = differing_flags(LossesConfig.from_arguments(words, "losses"), config)
    return shlex.join(["python", "benchmarks/losses.py", *words, *flags, "--out", str(out)])


def _row(trial: LossTrial, usual: LossTrial, drawn: BootstrapConfig) -> LossRow:
    ours, theirs, towers = trial.values, usual.values, trial.towers
    difference = paired_interval(ours, theirs, trial.user_ids, resamples=drawn.resamples, seed=drawn.seed)
    return LossRow(
        towers.tower,
        trial.variant.loss,
        _negatives(trial),
        usual=trial.variant.usual,
        figures={metric: trial.measured.figures[metric] for metric in METRICS},
        share=float(ours.mean() / theirs.mean()) if theirs.mean() else None,
        difference=Figure(*difference[0].tolist()),
        epochs=towers.trained.epochs,
        refit_epochs=towers.trained.refit_epochs,
        cpu_seconds=trial.cpu_seconds,
    )


def _negatives(trial: LossTrial) -> str:
    """What a chosen item is scored against."""
    towers, loss = trial.towers, trial.variant.loss
    if towers.tower == "pooled":
        uniform = towers.pooled.sampled_negatives
        return "every item" if uniform >= trial.known else f"in-batch and {uniform:,} uniform, logQ"
    sequence = towers.sequence

    more = {"sampled-softmax": ", logQ", "gbce": f", t = {sequence.calibration:g}"}
    return "every item" if loss == "cross-entropy" else f"{sequence.negatives:,} uniform{more.get(loss, '')}"
