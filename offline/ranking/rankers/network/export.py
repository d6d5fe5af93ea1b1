"""From the network to the ONNX graph that the rank server runs, with a proof that both score alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from offline.ranking.rankers.graph import PARITY, export_graph
from offline.ranking.rankers.network.inputs import RankingBatch
from offline.ranking.rankers.network.model import OUTPUTS, RankingNetwork
from rank_server.onnx_graph import open_session
from rank_server.scoring import MENU
from recsys.errors import ContractBroken


class ServedNetwork(nn.Module):
    """The network as one score: a weighted sum of its outputs."""

    def __init__(self, network: RankingNetwork, weights: tuple[float, ...]) -> None:
        """`weights` has one number per `OUTPUTS`."""
        super().__init__()
        self.network = network
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32).reshape(len(OUTPUTS), 1))

    def forward(self, *menu: Tensor) -> Tensor:
        """score[n] from the seven inputs of the menu; masks are numbers."""
        score: Tensor = (self.network(*menu) @ self.weights).reshape(-1)
        return score


def export_network(served: ServedNetwork, path: Path, probes: list[RankingBatch]) -> float:
    """Writes the graph menu → `score[n]`, free in candidates, queries and length of histories; returns the largest
    difference to PyTorch on `probes`, on their first candidate alone, and on it without a history.

    Raises ContractBroken where it is above `PARITY`, or not a number.
    """
    served.eval()
    axes = {name: {0: "candidates"} if name in MENU[:3] else {0: "queries", 1: "events"} for name in MENU}
    export_graph(served, probes[0].menu, path, inputs=MENU, axes={**axes, "score": {0: "candidates"}})
    difference = max(_difference(served, path, menu) for probe in probes for menu in _forms(probe.menu))
    if not difference <= PARITY:
        raise ContractBroken(
            f"{path}: ONNX Runtime's scores differ from PyTorch's by {difference:.2g}, allowed is {PARITY:.0e}; "
            "lower network.learning_rate, or check the versions of torch and onnxruntime"
        )
    return difference


def _forms(menu: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """The batch, its first candidate, and that one of a user without a history."""
    one = (*(part[:1] for part in menu[:2]), torch.zeros(1, dtype=torch.int64), *(part[:1] for part in menu[3:]))
    none = (*one[:3], *(torch.zeros_like(part[:, :1]) for part in one[3:]))
    return [menu, one, none]


@torch.no_grad()
def _difference(served: ServedNetwork, path: Path, menu: tuple[Tensor, ...]) -> float:
    expected = served(*menu).numpy()
    feed = {name: part.numpy() for name, part in zip(MENU, menu, strict=True)}
    found = open_session(path).run(["score"], feed)[0]
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("nan")
    return float(np.abs(found - expected).max(initial=0.0))
