"""Epochs and gradient steps of the sequence towers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from offline.recall.two_tower.config import SequenceConfig, TwoTowerConfig
from offline.recall.two_tower.corpus import Corpus
from offline.recall.two_tower.loss import ItemSample, NegativeSampler
from offline.recall.two_tower.objectives import Sample, objective_loss
from offline.recall.two_tower.sequence import SequenceTower, with_one
from offline.recall.two_tower.windows import SequenceBatch, draw_windows, gather_windows, pack

_LONGEST_STEP = 5.0
"""Gradients longer than this are shortened to it."""
_WARMUP_START = 0.02


@dataclass(frozen=True, slots=True)
class Schedule:
    """The step size over a phase: a linear rise to `peak`, then half a cosine down to 0."""

    peak: float
    epochs: int
    warmup: float

    def rate(self, progress: float) -> float:
        """The step size when `progress` (0 to 1) of the phase is done."""
        rise = _WARMUP_START + (1 - _WARMUP_START) * progress / self.warmup if progress < self.warmup else 1.0
        return self.peak * min(rise, (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


class SequenceLearner:
    """A model with its optimiser and its averaged weights.

    Where `mixed`, layers compute in 16 bits: bfloat16 on the CPU and where a GPU has it, else float16 with the loss
    scaled. Weights, losses and exports stay in 32.
    """

    def __init__(
        self,
        model: SequenceTower,
        config: TwoTowerConfig,
        device: torch.device,
        *,
        schedule: Schedule,
    ) -> None:
        self.model = model.to(device)
        self.config = config
        self.device = device
        self.schedule = schedule
        sequence = config.sequence
        self.optimizer = torch.optim.AdamW(_groups(model, sequence.reg), lr=schedule.peak, betas=(0.9, 0.98))
        average = get_ema_multi_avg_fn(sequence.averaging)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(model, multi_avg_fn=average)
        self.mixed = sequence.precision == "mixed" or (sequence.precision == "auto" and device.type == "cuda")
        half = self.mixed and device.type == "cuda" and not torch.cuda.is_bf16_supported()
        self.type = torch.float16 if half else torch.bfloat16
        self.scaler = torch.amp.GradScaler(device.type, enabled=half)

    @property
    def best(self) -> SequenceTower:
        """The model with averaged weights, ready to score."""
        return cast("SequenceTower", self.averaged.module).eval()

    def epoch(self, corpus: Corpus, *, phase: int, number: int) -> float:
        """Trains on every history once and returns the mean loss; draws follow from seed, phase and number."""
        rng = np.random.default_rng([self.config.seed, phase, number])
        torch.manual_seed(int(rng.integers(2**62)))
        windows = draw_windows(corpus.events, self.config.history_limit, rng)
        groups = pack(windows, self.config.sequence.events, rng)[: self.config.sequence.max_steps]
        sampler = item_sampler(corpus, self.config.sequence)
        known = torch.from_numpy(corpus.known)
        self.model.train()
        losses = []
        title = f"sequence tower, epoch {number + 1}"
        for step, group in enumerate(tqdm(groups, desc=title, leave=False, disable=None, mininterval=1.0)):
            self._set_rate((number + step / len(groups)) / self.schedule.epochs)
            batch = gather_windows(corpus.events, windows.take(group))
            drawn = None if sampler is None else sampler.sample(batch.target_rows.numpy(), rng)
            losses.append(self.step(batch, known, drawn))
        return float(np.mean(losses)) if losses else 0.0

    def step(self, batch: SequenceBatch, known: Tensor, drawn: ItemSample | None = None) -> float:
        """One gradient step; returns the loss before it. `known`, bool[items], and `drawn`: see `Sample`."""
        with torch.autocast(self.device.type, dtype=self.type, enabled=self.mixed):
            sample = self._sample(batch, known, drawn)
        loss = objective_loss(self.config.sequence.loss, sample)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LONGEST_STEP)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.averaged.update_parameters(self.model)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def _sample(self, batch: SequenceBatch, known: Tensor, drawn: ItemSample | None) -> Sample:
        """Every event's state with the item that followed, and the cold vector with the first items of users."""
        items = self.model.items()
        histories = batch.histories.to(self.device)
        latent = functional.embedding(histories.rows, items[:, :-1])
        states = self.model.users.states(latent, histories)[batch.present.to(self.device)]
        cold = self.model.users.scaled(self.model.users.cold).expand(len(batch.first_rows), -1)
        targets = batch.target_rows.to(self.device)
        rows = known.nonzero()[:, 0]
        negatives = rows[torch.randint(len(rows), (self.config.sequence.negatives,))].to(self.device)
        return Sample(
            with_one(torch.cat([states, cold.to(states.dtype)])).float(),
            items.float(),
            targets,
            negatives,
            known.to(self.device),
            self.config.sequence.calibration,
            drawn,
        )

    def _set_rate(self, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(progress)


def item_sampler(corpus: Corpus, config: SequenceConfig) -> NegativeSampler | None:
    """What draws the items that a step's cross-entropy is estimated from; None where it is over all, or is not the
    loss. Every event is the target of one position, so items are targets as often as they have events."""
    known = np.flatnonzero(corpus.known)
    if config.loss != "cross-entropy" or len(known) <= config.exact_items:
        return None
    counts = np.bincount(corpus.events.item_rows, minlength=corpus.n_items)
    return NegativeSampler(known, counts / counts.sum(), config.sampled_negatives)


def _groups(model: SequenceTower, reg: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors, biases and tables of distances do not."""
    named = list(model.named_parameters())
    flat = [name for name, value in named if value.ndim < 2 or name.endswith(("distance", "id_bias.weight"))]
    return [
        {"params": [value for name, value in named if name not in flat], "weight_decay": reg},
        {"params": [value for name, value in named if name in flat], "weight_decay": 0.0},
    ]
