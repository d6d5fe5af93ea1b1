"""Training: epochs with validation, early stop and checkpoints, then a refit on everything up to the cut-off."""

from __future__ import annotations

import copy
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline.dataset.interactions import Snapshot, TrainingEvents
from offline.recall.two_tower.checkpoint import (
    CHECKPOINT_FILE,
    WEIGHTS_FILE,
    InputSchema,
    fingerprint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.corpus import Corpus
from offline.recall.two_tower.export import export_towers
from offline.recall.two_tower.learner import Learner
from offline.recall.two_tower.model import Content, TwoTower
from offline.recall.two_tower.sequence import SequenceTower
from offline.recall.two_tower.sequence_learner import Schedule, SequenceLearner, item_sampler
from offline.recall.two_tower.side_data import ItemSideData
from offline.recall.two_tower.validation import Validation
from offline.recall.two_tower.windows import draw_windows, pack
from offline.steps.sampling import note_sample
from recsys.errors import DataMissing

log = logging.getLogger(__name__)

_SEARCH, _REFIT = 0, 1


def train_channel(
    snapshot: Snapshot,
    config: TwoTowerConfig,
    folder: Path,
    *,
    earlier: Path | None = None,
    text: Path | None = None,
) -> None:
    """`train` as the registry of channels calls it: with the folder of the cut-off before and that of text vectors."""
    train(snapshot, config, folder, initial=earlier, side=ItemSideData.of(snapshot.catalogue, text))


def train(
    snapshot: Snapshot,
    config: TwoTowerConfig,
    folder: Path,
    *,
    initial: Path | None = None,
    side: ItemSideData | None = None,
) -> None:
    """Trains the towers on `snapshot` and writes the files of `VectorChannel` below `folder`.

    From scratch, held-out events choose the number of epochs, and further epochs see everything: the pooled tower holds
    out the last `validation_fraction` of the events, the sequence tower the latest event of each user. Where nobody has
    events to hold out, all epochs see everything. With `initial`, the folder of an earlier cut-off, its towers are
    continued. `side` describes items to the sequence tower; absent, it is what the catalogue says.
    A training that was killed continues from its last epoch and ends in the same result.

    Raises:
        DataMissing: the snapshot has no events, or `initial` has no towers of this configuration.
    """
    if not len(snapshot.events.item_rows):
        raise DataMissing(f"{snapshot.dataset}: no events up to {snapshot.cutoff}; choose a later cut-off")
    torch.set_num_threads(config.threads)
    training = _Training(snapshot, config, folder, initial, side or ItemSideData.of(snapshot.catalogue))
    corpus = Corpus.of(snapshot.events, len(snapshot.catalogue), snapshot.cutoff, config)
    _note_samples(corpus, config, folder)
    plan = training.plan
    if initial is not None:
        training.fit(corpus, plan.continue_epochs)
    elif len(training.validation.users):
        training.search()
        training.fit(corpus, plan.refit_epochs)
    else:
        training.fit(corpus, plan.epochs)
    model = training.learner.best.cpu()
    save_weights(folder / WEIGHTS_FILE, model, training.schema, corpus.known)
    export_towers(model, snapshot, corpus, config, folder)
    training.checkpoint.unlink(missing_ok=True)


def _note_samples(corpus: Corpus, config: TwoTowerConfig, folder: Path) -> None:
    """Notes what an epoch or a step leaves out."""
    events, items = corpus.events, int(corpus.known.sum())
    pooled, sequence = config.pooled, config.sequence
    if config.tower == "pooled":
        examples = int(np.count_nonzero(np.diff(events.indptr))) * pooled.examples_per_user
        note_sample(folder, "vector", used=pooled.max_examples, of=examples, unit="examples per epoch")
        note_sample(folder, "vector", used=pooled.sampled_negatives, of=items, unit="negative items per step")
        return
    rng = np.random.default_rng(config.seed)
    steps = len(pack(draw_windows(events, config.history_limit, rng), sequence.events, rng))
    note_sample(folder, "vector", used=sequence.max_steps, of=steps, unit="steps per epoch")
    if item_sampler(corpus, sequence) is not None:
        note_sample(folder, "vector", used=sequence.sampled_negatives, of=items, unit="negative items per step")


def index_items(
    snapshot: Snapshot, config: TwoTowerConfig, folder: Path, *, trained: Path, side: ItemSideData | None = None
) -> None:
    """Writes the files of `VectorChannel` for the items of `snapshot` with the towers of `trained`, without training.

    The vector of an item that training did not know follows from its genres, year, people and text.

    Raises:
        DataMissing: `trained` has no towers of this configuration.
    """
    side = side or ItemSideData.of(snapshot.catalogue)
    fingerprint(snapshot, config, side, trained)
    content = Content.of(snapshot.catalogue)
    model = _new_towers(content, snapshot.events, config, side)
    known = load_weights(trained / WEIGHTS_FILE, model, InputSchema.of(snapshot, content, side))
    corpus = Corpus.of(snapshot.events, len(snapshot.catalogue), snapshot.cutoff, config)
    save_weights(folder / WEIGHTS_FILE, model, InputSchema.of(snapshot, content, side), known)
    export_towers(model.eval(), snapshot, corpus.knowing(known), config, folder)


def new_model(content: Content, events: TrainingEvents, config: TwoTowerConfig) -> TwoTower:
    """Untrained pooled towers; ratings are standardised by the mean and deviation of `events`."""
    torch.manual_seed(config.seed)
    mean, deviation = _value_scale(events)
    return TwoTower(content, config, mean=mean, deviation=deviation)


def new_sequence_model(
    content: Content, events: TrainingEvents, config: TwoTowerConfig, *, side: ItemSideData
) -> SequenceTower:
    """Untrained sequence towers; ratings are standardised by the mean and deviation of `events`."""
    torch.manual_seed(config.seed)
    mean, deviation = _value_scale(events)
    return SequenceTower(content, side, config, mean=mean, deviation=deviation)


def _new_towers(
    content: Content, events: TrainingEvents, config: TwoTowerConfig, side: ItemSideData
) -> TwoTower | SequenceTower:
    if config.tower == "sequence":
        return new_sequence_model(content, events, config, side=side)
    return new_model(content, events, config)


def _value_scale(events: TrainingEvents) -> tuple[float, float]:
    values = events.values[~np.isnan(events.values)]
    mean, deviation = (float(values.mean()), float(values.std())) if len(values) else (0.0, 1.0)
    return mean, deviation or 1.0


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA, else MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class _Training:
    """One training with its checkpoint: phase, epochs done, and the best weights so far."""

    def __init__(
        self, snapshot: Snapshot, config: TwoTowerConfig, folder: Path, initial: Path | None, side: ItemSideData
    ) -> None:
        self.snapshot = snapshot
        self.config = config
        self.plan = config.trained
        self.checkpoint = folder / CHECKPOINT_FILE
        content = Content.of(snapshot.catalogue)
        self.schema = InputSchema.of(snapshot, content, side)
        self.fingerprint = fingerprint(snapshot, config, side, initial)
        model = _new_towers(content, snapshot.events, config, side)
        self.continued = initial is not None
        if initial is not None:
            load_weights(initial / WEIGHTS_FILE, model, self.schema)
        self.phase, self.epochs = _SEARCH, 0
        self.best: dict[str, Any] = {"score": -1.0, "epoch": 0, "weights": {}}
        self.learner = self._learner(model)
        self._resume()

    @cached_property
    def validation(self) -> Validation:
        """What users did after the events that the search learns from, and those events."""
        events, config, n_items = self.snapshot.events, self.config, len(self.snapshot.catalogue)
        if config.tower == "sequence":
            return Validation.of_latest(events, n_items, self.snapshot.cutoff, config)
        moment = int(np.quantile(events.timestamps, 1 - config.pooled.validation_fraction, method="lower"))
        return Validation.after(Corpus.of(events, n_items, moment, config), events, config)

    def search(self) -> None:
        """Trains without what is held out until validation NDCG stops growing, and goes back to the best weights."""
        if self.phase != _SEARCH:
            return
        while self.epochs < self.plan.epochs and self.epochs - self.best["epoch"] < self.plan.patience:
            loss = self.learner.epoch(self.validation.corpus, phase=_SEARCH, number=self.epochs)
            score = self.validation.score(self.learner.best, self.config.history_limit)
            self.epochs += 1
            log.info("two-tower epoch %d: loss %.4f, validation NDCG@10 %.4f", self.epochs, loss, score)
            if score > self.best["score"]:
                weights = copy.deepcopy(self.learner.best.state_dict())
                self.best = {"score": score, "epoch": self.epochs, "weights": weights}
            self._save()
        self.learner.model.load_state_dict(self.best["weights"])
        self.phase, self.epochs = _REFIT, 0
        self.learner = self._learner(self.learner.model)
        self._save()

    def fit(self, corpus: Corpus, epochs: int) -> None:
        """Trains `epochs` on everything."""
        self.phase = _REFIT
        while self.epochs < epochs:
            loss = self.learner.epoch(corpus, phase=_REFIT, number=self.epochs)
            self.epochs += 1
            log.info("two-tower refit epoch %d: loss %.4f", self.epochs, loss)
            self._save()

    def _learner(self, model: TwoTower | SequenceTower) -> Learner | SequenceLearner:
        """A fresh optimiser for the phase that begins."""
        config = self.config
        device = choose_device(config.device)
        if isinstance(model, TwoTower):
            return Learner(model, config, device)
        return SequenceLearner(model, config, device, schedule=self._schedule())

    def _schedule(self) -> Schedule:
        """The step size of the phase that begins: towers that know much already take smaller steps."""
        config = self.config.sequence
        refits = self.phase == _REFIT and self.best["epoch"] > 0
        if not (self.continued or refits):
            return Schedule(config.learning_rate, config.epochs, config.warmup)
        epochs = config.continue_epochs if self.continued else config.refit_epochs
        return Schedule(config.learning_rate * config.refit_rate, epochs, config.warmup)

    def _save(self) -> None:
        state = {"fingerprint": self.fingerprint, "phase": self.phase, "epochs": self.epochs, "best": self.best}
        save_checkpoint(self.checkpoint, {**state, "learner": self.learner.state()})

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint, self.fingerprint)
        if state is None:
            return
        self.phase, self.epochs, self.best = state["phase"], state["epochs"], state["best"]
        self.learner = self._learner(self.learner.model)
        self.learner.restore(state["learner"])
        log.info("two-tower: continuing a training that stopped after epoch %d", self.epochs)
