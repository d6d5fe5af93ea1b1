"""The network as a ranker: its epochs and weights of tasks are chosen, then it is trained on everything."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from offline.ranking.rankers.kind import RankerKind, TrialSettings
from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.network.export import ServedNetwork, export_network
from offline.ranking.rankers.network.inputs import WindowRequests, all_batches
from offline.ranking.rankers.network.model import TASKS
from offline.ranking.rankers.network.training import CHECKPOINT_FILE, NetworkValidation, Training, predict
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankerTrial, RankingDataset, quality, warm_part
from offline.ranking.samples import Samples

SHARES = (0.1, 0.25, 0.5, 1.0)
"""What is tried as the weight of the correction: little data is held back by trusting it less."""
EXTRA = (0.0, 0.1, 0.25, 0.5)
"""What is tried as the weights of the other tasks."""
_PROBES, _PROBED = 2, 4
"""Windows, and requests of each, on which graph and network are compared."""


def choose_epochs(
    dataset: RankingDataset, held_out: LabelledWindow, config: NetworkConfig, *, folder: Path | None = None
) -> RankerTrial:
    """Trains on the windows of `dataset`, none of which may reach into the labels of `held_out`; chooses the number of
    epochs with the best weight of the correction after each, then the weights of the other tasks.

    `folder` keeps a checkpoint, from which a killed run continues. Raises DataError where there is nothing to learn.
    """
    warm = warm_part(held_out)
    validation = NetworkValidation(
        WindowRequests(warm, dataset.item_ids),
        lambda outputs: _choose_share(warm.samples, outputs.astype(np.float64))[1],
    )
    trained = Training(dataset, config).fit(
        config.epochs, validation=validation, checkpoint=folder / CHECKPOINT_FILE if folder else None
    )
    if folder:
        shutil.rmtree((folder / CHECKPOINT_FILE).parent)
    outputs = predict(trained.network, validation.requests).astype(np.float64)
    weights = _choose_weights(warm.samples, outputs, several=config.experts > 1)
    whole = predict(trained.network, WindowRequests(held_out, dataset.item_ids)).astype(np.float64)
    settings: dict[str, int | float] = {"epochs": trained.epochs} | dict(zip(TASKS, weights, strict=True))
    curve = {str(epoch + 1): value for epoch, value in enumerate(trained.curve)}
    return RankerTrial(settings, whole @ np.asarray([1.0, *weights]), curve)


def train(dataset: RankingDataset, path: Path, config: NetworkConfig, *, settings: dict[str, int | float]) -> None:
    """Trains on all windows of `dataset` as `settings` of `choose_epochs` say, and writes the graph to `path`.

    Raises DataError where there is nothing to learn, ContractBroken where the ONNX graph does not score alike.
    """
    checkpoint = path.with_name(Path(CHECKPOINT_FILE).name)
    trained = Training(dataset, config).fit(int(settings["epochs"]), checkpoint=checkpoint)
    served = ServedNetwork(trained.network, (1.0, *(float(settings[task]) for task in TASKS)))
    newest = [window for window in dataset.windows if window.samples.groups.any()][-_PROBES:]
    probes = [next(all_batches(WindowRequests(window, dataset.item_ids), _PROBED)) for window in newest]
    export_network(served, path, probes)
    checkpoint.unlink(missing_ok=True)


def _choose_share(samples: Samples, outputs: NDArray[np.float64]) -> tuple[float, float]:
    """The best weight of the correction, of equals the smallest, and the quality with it."""
    values = [quality(samples, outputs[:, 0] + share * outputs[:, 1]) for share in SHARES]
    best = int(np.argmax(values))
    return SHARES[best], values[best]


def _choose_weights(samples: Samples, outputs: NDArray[np.float64], *, several: bool) -> tuple[float, ...]:
    """One weight per task: the correction's first, then one after the other those of the others."""
    share, best = _choose_share(samples, outputs)
    weights = [share, *(0.0 for _ in TASKS[1:])]
    for task in range(1, len(TASKS)) if several else ():
        for weight in EXTRA[1:]:
            trial = [*weights[:task], weight, *weights[task + 1 :]]
            value = quality(samples, outputs @ np.asarray([1.0, *trial]))
            if value > best:
                weights, best = trial, value
    return tuple(weights)


@dataclass(frozen=True, slots=True)
class NetworkRanker(RankerKind):
    """DIN + DCN-V2 + MMoE."""

    name: ClassVar[str] = "network"
    config: NetworkConfig

    def attempt(self, dataset: RankingDataset, held_out: LabelledWindow, folder: Path) -> RankerTrial:
        """Chooses the number of epochs and the weights of the tasks."""
        return choose_epochs(dataset, held_out, self.config, folder=folder)

    def train(self, dataset: RankingDataset, path: Path, settings: TrialSettings) -> None:
        """Trains as many epochs."""
        train(dataset, path, self.config, settings=settings)
