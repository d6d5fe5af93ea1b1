"""The peers: package, published settings, what is searched, and how each is fitted."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from peers.trials import Settings, Space

WEIGHTS = CategoricalDistribution(["one", "value", "liked"])
BINARY = CategoricalDistribution(["one", "liked"])
LAST = CategoricalDistribution([0, 10, 50, 200])

PERIODS = (0, 1, 3, 7, 14, 30, 60, 90, 180)
"""Days, 0 for all time. So few that each is tried once: a sampler would repeat some and leave others out."""


@dataclass(frozen=True)
class Peer:
    """A peer. `published[0]` are the settings that every run tries first; `space` is what is searched around them.

    `fit` names module and function (or class, for one that learns by epochs, whose `kind` is then given), so that a
    run imports only its own peer. `epochs` is 0 for a peer that does not learn by epochs; otherwise the epochs that
    its authors train for, the cap of a run here. `source` names the origin of the published settings.
    """

    package: str
    fit: str
    published: tuple[Settings, ...]
    space: Space
    source: str
    kind: str = ""
    epochs: int = 0
    max_trials: int = 60
    searched_by: str = field(default="Optuna TPE")

    def load(self) -> Callable[..., Any]:
        """The function or class that fits the peer."""
        module, _, name = self.fit.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(f"peers.{module}"), name)
        return loaded

    def version(self) -> str:
        """The installed version of its package."""
        return version(self.package)


SEEN = {"weights": "one", "last": 0}
NETWORK = {
    "n_blocks": 2,
    "n_factors": 64,
    "dropout_rate": 0.1,
    "session_max_len": 200,
    "loss": "softmax",
    "lr": 0.001,
}
NETWORK_SPACE = {
    "n_factors": CategoricalDistribution([64, 128]),
    "dropout_rate": FloatDistribution(0.1, 0.3),
    "batch_size": CategoricalDistribution([32, 64, 128]),
    "lr": FloatDistribution(5e-4, 3e-3, log=True),
}

PEERS = {
    "ials": Peer(
        package="pm-implicit",
        fit="dense:fit_ials",
        published=(
            {**SEEN, "factors": 64, "regularization": 0.01, "alpha": 1.0, "iterations": 15},
            {**SEEN, "factors": 128, "regularization": 0.01, "alpha": 10.0, "iterations": 15},
        ),
        space={
            "weights": WEIGHTS,
            "last": LAST,
            "factors": CategoricalDistribution([32, 64, 128, 256]),
            "regularization": FloatDistribution(1e-3, 100.0, log=True),
            "alpha": FloatDistribution(0.1, 40.0, log=True),
            "iterations": IntDistribution(5, 25),
        },
        source="implicit 0.7.3's defaults (alpha 1, regularisation .01, 15 iterations), 64 factors",
    ),
    "bm25": Peer(
        package="pm-implicit",
        fit="dense:fit_neighbours",
        published=({**SEEN, "k": 20, "k1": 1.2, "b": 0.75}, {**SEEN, "k": 100, "k1": 1.2, "b": 0.75}),
        space={
            "weights": WEIGHTS,
            "last": LAST,
            "k": IntDistribution(10, 800, log=True),
            "k1": FloatDistribution(0.1, 200.0, log=True),
            "b": FloatDistribution(0.0, 1.0),
        },
        source="implicit 0.7.3's defaults",
    ),
    "cosine": Peer(
        package="pm-implicit",
        fit="dense:fit_neighbours",
        published=({**SEEN, "k": 20}, {**SEEN, "k": 50}),
        space={"weights": WEIGHTS, "last": LAST, "k": IntDistribution(5, 1000, log=True)},
        source="implicit 0.7.3's defaults",
        max_trials=40,
    ),
    "ease": Peer(
        package="RecTools",
        fit="dense:fit_ease",
        published=({**SEEN, "regularization": 500.0},),
        space={"weights": WEIGHTS, "last": LAST, "regularization": FloatDistribution(10.0, 200000.0, log=True)},
        source="RecTools 0.19's default, Steck 2019",
        max_trials=40,
    ),
    "popularity": Peer(
        package="RecTools",
        fit="dense:fit_popularity",
        published=tuple({"days": days} for days in PERIODS),
        space={"days": CategoricalDistribution(PERIODS)},
        source="RecTools 0.19's default, all time",
        max_trials=len(PERIODS),
        searched_by="every period once",
    ),
    "itemknn": Peer(
        package="lenskit",
        fit="lenskit_peers:fit_item_knn",
        published=({**SEEN, "k": 20, "min_sim": 1e-6, "save": 0},),
        space={
            "weights": BINARY,
            "last": LAST,
            "k": IntDistribution(5, 500, log=True),
            "min_sim": FloatDistribution(1e-6, 0.2, log=True),
            "save": CategoricalDistribution([0, 50, 200, 1000]),
        },
        source="LensKit 2025.8's defaults, implicit mode",
        max_trials=40,
    ),
    "implicit-mf": Peer(
        package="lenskit",
        fit="lenskit_peers:fit_implicit_mf",
        published=({**SEEN, "factors": 50, "regularization": 0.1, "weight": 40.0, "epochs": 10},),
        space={
            "weights": BINARY,
            "last": LAST,
            "factors": CategoricalDistribution([25, 50, 100, 200]),
            "regularization": FloatDistribution(1e-3, 100.0, log=True),
            "weight": FloatDistribution(0.1, 80.0, log=True),
            "epochs": IntDistribution(5, 20),
        },
        source="LensKit 2025.8's defaults",
    ),
    "sasrec": Peer(
        package="RecTools",
        fit="transformers:Transformer",
        kind="sasrec",
        published=(
            {**NETWORK, "n_heads": 1, "batch_size": 128},
            {**NETWORK, "n_heads": 1, "batch_size": 32},
        ),
        space=NETWORK_SPACE,
        source="Kang & McAuley 2018 on ML-1M (2 blocks, 1 head, length 200), full softmax as in RecTools",
        epochs=100,
        searched_by="race of published settings and Optuna's, then early stopping",
    ),
    "bert4rec": Peer(
        package="RecTools",
        fit="transformers:Transformer",
        kind="bert4rec",
        published=(
            {**NETWORK, "n_heads": 2, "mask_prob": 0.2, "batch_size": 128},
            {**NETWORK, "n_heads": 2, "mask_prob": 0.2, "batch_size": 32},
        ),
        space=NETWORK_SPACE,
        source="Sun et al. 2019 on ML-1M (2 blocks, 2 heads, length 200, mask .2), full softmax",
        epochs=200,
        searched_by="race of published settings and Optuna's, then early stopping",
    ),
    "hstu": Peer(
        package="RecTools",
        fit="transformers:Transformer",
        kind="hstu",
        published=(
            {**NETWORK, "n_heads": 1, "dropout_rate": 0.2, "logits_t": 0.05, "batch_size": 128},
            {**NETWORK, "n_heads": 1, "dropout_rate": 0.2, "logits_t": 0.05, "batch_size": 32},
        ),
        space=NETWORK_SPACE,
        source="Zhai et al. 2024 on ML-1M (2 blocks, 1 head, length 200, temperature .05), full softmax",
        epochs=100,
        searched_by="race of published settings and Optuna's, then early stopping",
    ),
}
