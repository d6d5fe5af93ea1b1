"""Training of the ranking network: passes over the requests, validation, early stop, checkpoints that resume."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.network.inputs import RankingBatch, WindowRequests, all_batches, training_batches
from offline.ranking.rankers.network.model import OUTPUTS, RankingNetwork, Scales
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankingDataset
from offline.recall.two_tower.checkpoint import load_checkpoint, save_checkpoint
from recsys.features import FUSED

log = logging.getLogger(__name__)

CHECKPOINT_FILE = "network/checkpoint.pt"
_SCALE_ROWS = 200_000
"""Candidates that scales are measured on."""
_EVALUATION_BATCH = 8


@dataclass(frozen=True, slots=True)
class NetworkValidation:
    """Held-out requests, and the metric that selects the epoch."""

    requests: WindowRequests
    metric: Callable[[NDArray[np.float32]], float]
    """From float32[n, len(OUTPUTS)] of all their candidates; higher is better."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A network, and how it got there."""

    network: RankingNetwork
    epochs: int
    curve: tuple[float, ...]
    """Validation after each epoch; empty without validation."""
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""


class Training:
    """One run: a network, its optimiser, and the requests it sees."""

    def __init__(self, dataset: RankingDataset, config: NetworkConfig, *, vectors: Tensor | None = None) -> None:
        """`vectors` float32[items, embedding_size] is where item vectors start; None: from nothing.

        Raises DataError where no request has both a relevant and an irrelevant candidate.
        """
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self._config = config
        self._requests = [WindowRequests(window, dataset.item_ids) for window in dataset.windows]
        self._chosen = [np.flatnonzero(mask) for mask in dataset.training_requests()]
        self._rng = np.random.default_rng(config.seed)
        scales = _scales([window for window in dataset.windows if len(window.samples.labels)], self._rng)
        column = dataset.feature_names.index(FUSED)
        self.network = RankingNetwork(len(dataset.item_ids), scales, config, fused_column=column)
        if vectors is not None:
            self.network.items.weight.data.copy_(vectors)
        self._optimizer = _optimizer(self.network, config)
        self._of_values = scales.values

    def fit(
        self, epochs: int, *, validation: NetworkValidation | None = None, checkpoint: Path | None = None
    ) -> Trained:
        """Trains for `epochs`, or until validation was not better for `patience` of them; the best epoch is kept.

        The learning rate falls as if there were `config.epochs`, so that a refit with fewer sees what the chosen
        epochs saw.

        With `checkpoint`, a run that was killed continues from its last epoch and ends in the same result.
        """
        state = self._resume(checkpoint, epochs)
        curve, losses, best = state["curve"], state["losses"], state["best"]
        for epoch in range(len(losses), epochs):
            losses.append(self._epoch(epoch))
            if validation:
                curve.append(validation.metric(predict(self.network, validation.requests)))
                log.info("network: epoch %d, loss %.4f, validation %.4f", epoch + 1, losses[-1], curve[-1])
                if curve[-1] == max(curve):
                    best = copy.deepcopy(self.network.state_dict())
            if checkpoint:
                self._keep(checkpoint, epochs, {"curve": curve, "losses": losses, "best": best})
            if validation and len(curve) - int(np.argmax(curve)) > self._config.patience:
                break
        if best is not None:
            self.network.load_state_dict(best)
        self.network.eval()
        return Trained(self.network, int(np.argmax(curve)) + 1 if curve else epochs, tuple(curve), tuple(losses))

    def _epoch(self, epoch: int) -> float:
        self.network.train()
        batches = list(training_batches(self._requests, self._chosen, self._config, self._rng))
        total = 0.0
        for step, batch in enumerate(
            tqdm(batches, desc=f"network {epoch + 1}", unit="batch", leave=False, disable=None)
        ):
            share = (epoch + step / len(batches)) / self._config.epochs
            for group in self._optimizer.param_groups:
                group["lr"] = self._config.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))
            loss = loss_of(self.network(*batch.menu, shown=batch.shown), batch, self._config, self._of_values)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
            self._optimizer.step()
            total += float(loss.detach())
        return total / max(len(batches), 1)

    def _resume(self, checkpoint: Path | None, epochs: int) -> dict[str, Any]:
        fresh: dict[str, Any] = {"curve": [], "losses": [], "best": None}
        state = load_checkpoint(checkpoint, self._fingerprint(epochs)) if checkpoint else None
        if state is None:
            return fresh
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self._rng.bit_generator.state = state["rng"]
        return {name: state[name] for name in fresh}

    def _keep(self, checkpoint: Path, epochs: int, progress: dict[str, Any]) -> None:
        state = {
            "fingerprint": self._fingerprint(epochs),
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "rng": self._rng.bit_generator.state,
        }
        save_checkpoint(checkpoint, state | progress)

    def _fingerprint(self, epochs: int) -> str:
        digest = hashlib.sha256(f"{self._config.model_dump_json()} {epochs}".encode())
        for requests, chosen in zip(self._requests, self._chosen, strict=True):
            digest.update(chosen.tobytes())
            digest.update(np.ascontiguousarray(requests.samples.labels).tobytes())
        return digest.hexdigest()


def loss_of(outputs: Tensor, batch: RankingBatch, config: NetworkConfig, of_values: tuple[float, float]) -> Tensor:
    """Softmax over each request's candidates for the taken ones, plus a logistic loss of likes and a squared one of
    ratings, each weighted as `config` says."""
    index, labels = batch.menu[2][batch.shown], batch.labels
    q = batch.menu[3].shape[0]
    loss = listwise(outputs[:, 0] + outputs[:, 1], labels, index, q)
    if config.experts == 1:
        return loss
    rated = torch.isfinite(batch.ratings)
    liked = (rated & (batch.ratings >= config.liked)).float()
    likes = nn.functional.binary_cross_entropy_with_logits(outputs[:, OUTPUTS.index("like")], liked)
    wanted = (torch.where(rated, batch.ratings, torch.zeros_like(labels)) - of_values[0]) / of_values[1]
    errors = ((outputs[:, OUTPUTS.index("rating")] - wanted) ** 2 * rated.float()).sum() / rated.float().sum().clamp(
        min=1.0
    )
    return loss + config.like_weight * likes + config.rating_weight * errors


def listwise(logits: Tensor, labels: Tensor, index: Tensor, q: int) -> Tensor:
    """The mean, over requests, of the cross-entropy between labels (shared out to sum to 1) and the softmax of logits
    over the request's candidates (Cao et al. 2007, ListNet)."""
    highest = torch.full((q,), -torch.inf).scatter_reduce(0, index, logits.detach(), "amax")
    shifted = logits - highest[index]
    totals = torch.zeros(q).scatter_add(0, index, shifted.exp())
    counts = torch.zeros(q).scatter_add(0, index, labels)
    losses = -(shifted - totals.log()[index]) * labels / counts.clamp(min=1.0)[index]
    return losses.sum() / q


@torch.no_grad()
def predict(network: RankingNetwork, requests: WindowRequests) -> NDArray[np.float32]:
    """float32[n, len(OUTPUTS)] of all candidates."""
    network.eval()
    parts = [network(*batch.menu).numpy() for batch in all_batches(requests, _EVALUATION_BATCH)]
    return np.concatenate([*parts, np.empty((0, len(OUTPUTS)), np.float32)])


def _scales(windows: Sequence[LabelledWindow], rng: np.random.Generator) -> Scales:
    n = _SCALE_ROWS // max(len(windows), 1)
    features = [window.samples.features[np.sort(rng.permutation(len(window.samples.labels))[:n])] for window in windows]
    values = [window.samples.histories.values for window in windows]
    return Scales.of(np.concatenate(features), np.concatenate(values))


def _optimizer(network: RankingNetwork, config: NetworkConfig) -> torch.optim.Optimizer:
    items = [network.items.weight]
    others = [parameter for name, parameter in network.named_parameters() if name != "items.weight"]
    groups = [{"params": others, "weight_decay": config.weight_decay}, {"params": items, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)
