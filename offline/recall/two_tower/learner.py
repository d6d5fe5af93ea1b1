"""One epoch and one gradient step."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from offline.recall.two_tower.batches import Batch, batches, draw_epoch
from offline.recall.two_tower.config import TwoTowerConfig
from offline.recall.two_tower.corpus import Corpus
from offline.recall.two_tower.loss import ItemSample, NegativeSampler, sampled_softmax
from offline.recall.two_tower.model import TwoTower
from offline.recall.two_tower.trend import Trend


class Learner:
    """A model, its optimiser, and a moving average of its weights, which ranks better than the last weights."""

    def __init__(self, model: TwoTower, config: TwoTowerConfig, device: torch.device) -> None:
        self.model = model.to(device)
        self.config = config
        self.device = device
        pooled = config.pooled
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=pooled.learning_rate, weight_decay=pooled.reg)
        average = get_ema_multi_avg_fn(pooled.averaging)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(model, multi_avg_fn=average)

    @property
    def best(self) -> TwoTower:
        """The model with averaged weights, ready to score."""
        return cast("TwoTower", self.averaged.module).eval()

    def epoch(self, corpus: Corpus, *, phase: int, number: int) -> float:
        """Trains on one draw of examples and returns the mean loss; every draw follows from seed, phase and number."""
        rng = np.random.default_rng([self.config.seed, phase, number])
        torch.manual_seed(int(rng.integers(2**62)))
        epoch = draw_epoch(corpus.events, corpus.trend, self.config, rng)
        counts = epoch.target_counts(corpus.n_items)
        sampler = NegativeSampler(
            np.flatnonzero(corpus.known), counts / max(counts.sum(), 1), self.config.pooled.sampled_negatives
        )
        self.model.train()
        steps = -(-len(epoch.examples) // self.config.pooled.batch_size)
        drawn = batches(corpus.events, epoch, corpus.trend, config=self.config, rng=rng)
        losses = []
        for batch in tqdm(
            drawn, total=steps, desc=f"two-tower, epoch {number + 1}", leave=False, disable=None, mininterval=1.0
        ):
            sample = sampler.sample(batch.targets[batch.target_weights > 0], rng)
            losses.append(self.step(batch, sample, corpus.trend))
        return float(np.mean(losses))

    def step(self, batch: Batch, sample: ItemSample, trend: Trend) -> float:
        """One gradient step; returns the loss before it."""
        loss = batch_loss(self.model, batch, sample, trend)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.averaged.update_parameters(self.model)
        return loss.item()

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])


def batch_loss(model: TwoTower, batch: Batch, sample: ItemSample, trend: Trend) -> Tensor:
    """The loss of one batch over one sample of items; only items of the sample and of histories are embedded."""
    n_items, device = trend.features.shape[1], model.device
    history_rows = batch.histories.rows.numpy()
    needed = np.unique(np.concatenate([sample.rows, history_rows.ravel()]))
    position = np.zeros(n_items, np.int64)
    position[needed] = np.arange(len(needed))
    latent, bias = model.items(torch.from_numpy(needed).to(device))
    users = model.users(latent[torch.from_numpy(position[history_rows]).to(device)], batch.histories.to(device))
    moments, moment_of = np.unique(batch.moments, return_inverse=True)
    popularity = torch.from_numpy(trend.features[moments][:, sample.rows]).to(device)
    at, d = torch.from_numpy(position[sample.rows]).to(device), latent.shape[1]
    scores = users[:, : d + 1] @ torch.cat([latent[at], bias[at]], dim=1).T
    scores = scores + torch.einsum("qh,qch->qc", users[:, d + 1 :], popularity[torch.from_numpy(moment_of).to(device)])
    return sampled_softmax(
        scores,
        torch.from_numpy(sample.correction).to(device),
        torch.from_numpy(np.maximum(sample.positions(batch.targets, n_items), 0)).to(device),
        torch.from_numpy(batch.target_weights).to(device),
        torch.from_numpy(_seen(batch, sample, n_items)).to(device),
    )


def _seen(batch: Batch, sample: ItemSample, n_items: int) -> NDArray[np.bool_]:
    """bool[q, c]: whether the example's history holds the item of the sample."""
    positions = sample.positions(batch.histories.rows.numpy(), n_items)
    examples, events = np.nonzero((positions >= 0) & (batch.histories.weights.numpy() > 0))
    seen = np.zeros((len(positions), len(sample.rows)), np.bool_)
    seen[examples, positions[examples, events]] = True
    return seen
