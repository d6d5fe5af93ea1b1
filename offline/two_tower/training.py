"""Training: epochs with validation, early stop and checkpoints, then a refit on everything up to the cut-off."""

from __future__ import annotations

import copy
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from offline.interactions import Snapshot, TrainingEvents
from offline.two_tower.checkpoint import (
    CHECKPOINT_FILE,
    WEIGHTS_FILE,
    fingerprint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from offline.two_tower.config import TwoTowerConfig
from offline.two_tower.corpus import Corpus
from offline.two_tower.export import export_towers
from offline.two_tower.learner import Learner
from offline.two_tower.model import Content, TwoTower
from offline.two_tower.validation import Validation
from recsys.errors import DataMissing

log = logging.getLogger(__name__)

_SEARCH, _REFIT = 0, 1


def train(snapshot: Snapshot, config: TwoTowerConfig, folder: Path, *, initial: Path | None = None) -> None:
    """Trains the towers on `snapshot` and writes the files of `VectorChannel` below `folder`.

    From scratch, the last `validation_fraction` of the events chooses the number of epochs, and `refit_epochs` more
    see everything; where no user has events on both sides of it, all `epochs` see everything. With `initial`, the
    folder of an earlier cut-off, its towers are continued for `continue_epochs`.
    A training that was killed continues from its last epoch and ends in the same result.

    Raises:
        DataMissing: the snapshot has no events, or `initial` has no towers of this configuration.
    """
    if not len(snapshot.events.item_rows):
        raise DataMissing(f"{snapshot.dataset}: no events up to {snapshot.cutoff}; choose a later cut-off")
    torch.set_num_threads(config.threads)
    training = _Training(snapshot, config, folder, initial)
    corpus = Corpus.of(snapshot.events, len(snapshot.catalogue), snapshot.cutoff, config)
    if initial is not None:
        training.fit(corpus, config.continue_epochs)
    elif len(training.validation.users):
        training.search()
        training.fit(corpus, config.refit_epochs)
    else:
        training.fit(corpus, config.epochs)
    model = training.learner.best.cpu()
    save_weights(folder / WEIGHTS_FILE, model, snapshot.items.item_ids, training.content.names)
    export_towers(model, snapshot, corpus, config, folder)
    training.checkpoint.unlink(missing_ok=True)


def new_model(content: Content, events: TrainingEvents, config: TwoTowerConfig) -> TwoTower:
    """Untrained towers; ratings are standardised by the mean and deviation of `events`."""
    values = events.values[~np.isnan(events.values)]
    mean, deviation = (float(values.mean()), float(values.std())) if len(values) else (0.0, 1.0)
    torch.manual_seed(config.seed)
    return TwoTower(content, config, mean=mean, deviation=deviation or 1.0)


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA, else MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class _Training:
    """One training with its checkpoint: phase, epochs done, and the best weights so far."""

    def __init__(self, snapshot: Snapshot, config: TwoTowerConfig, folder: Path, initial: Path | None) -> None:
        self.snapshot = snapshot
        self.config = config
        self.checkpoint = folder / CHECKPOINT_FILE
        self.content = Content.of(snapshot.catalogue)
        self.identity = fingerprint(snapshot, config, initial)
        model = new_model(self.content, snapshot.events, config)
        if initial is not None:
            load_weights(initial / WEIGHTS_FILE, model, snapshot.items.item_ids, self.content.names)
        self.learner = Learner(model, config, choose_device(config.device))
        self.phase = _SEARCH
        self.epochs = 0
        self.best: dict[str, Any] = {"score": -1.0, "epoch": 0, "weights": {}}
        self._resume()

    @cached_property
    def validation(self) -> Validation:
        """The last window of the snapshot, and the events before it."""
        events, config = self.snapshot.events, self.config
        moment = int(np.quantile(events.timestamps, 1 - config.validation_fraction, method="lower"))
        corpus = Corpus.of(events, len(self.snapshot.catalogue), moment, config)
        return Validation.after(corpus, events, config)

    def search(self) -> None:
        """Trains without the validation window until its NDCG stops growing, and goes back to the best weights."""
        if self.phase != _SEARCH:
            return
        while self.epochs < self.config.epochs and self.epochs - self.best["epoch"] < self.config.patience:
            loss = self.learner.epoch(self.validation.corpus, phase=_SEARCH, number=self.epochs)
            score = self.validation.score(self.learner.best, self.config.history_limit)
            self.epochs += 1
            log.info("two-tower epoch %d: loss %.4f, validation NDCG@10 %.4f", self.epochs, loss, score)
            if score > self.best["score"]:
                weights = copy.deepcopy(self.learner.best.state_dict())
                self.best = {"score": score, "epoch": self.epochs, "weights": weights}
            self._save()
        self.learner.model.load_state_dict(self.best["weights"])
        self.learner = Learner(self.learner.model, self.config, self.learner.device)
        self.phase, self.epochs = _REFIT, 0
        self._save()

    def fit(self, corpus: Corpus, epochs: int) -> None:
        """Trains `epochs` on everything."""
        self.phase = _REFIT
        while self.epochs < epochs:
            loss = self.learner.epoch(corpus, phase=_REFIT, number=self.epochs)
            self.epochs += 1
            log.info("two-tower refit epoch %d: loss %.4f", self.epochs, loss)
            self._save()

    def _save(self) -> None:
        state = {"fingerprint": self.identity, "phase": self.phase, "epochs": self.epochs, "best": self.best}
        save_checkpoint(self.checkpoint, {**state, "learner": self.learner.state()})

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint, self.identity)
        if state is None:
            return
        self.phase, self.epochs, self.best = state["phase"], state["epochs"], state["best"]
        self.learner.restore(state["learner"])
        log.info("two-tower: continuing a training that stopped after epoch %d", self.epochs)
