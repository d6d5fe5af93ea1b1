"""LightGBM LambdaRank over the features of candidates, exported to ONNX.

Burges, "From RankNet to LambdaRank to LambdaMART", MSR-TR-2010-82. Trained on earlier cut-offs, the number of rounds
chosen on validation; then trained again on everything up to the bundle's cut-off with that many rounds.

Users with a history are few before an early cut-off, so the trees are held back twice: they correct the fused order of
the channels instead of starting from nothing, and they may not contradict what is known (a better rank, a higher
relative score or more events never lower a score). On ml-1m-rebuilt that is worth .02 NDCG@10 on validation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from offline.ranking.blend import METRIC
from offline.ranking.rankers.kind import RankerKind, TrialSettings
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankerTrial, RankingDataset, quality
from offline.ranking.rankers.trees_export import Base, export_onnx
from offline.ranking.samples import Samples
from recsys.features import FUSED

log = logging.getLogger(__name__)


class LightGBMConfig(BaseModel):
    """LightGBM's parameters, and how rounds are chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_rounds: int = Field(default=120, ge=1, description="maximum number of boosting rounds")
    round_step: int = Field(default=10, ge=1, description="rounds between two looks at validation")
    learning_rate: float = Field(default=0.05, gt=0, description="shrinkage of each tree")
    leaves: int = Field(default=4, ge=2, description="maximum number of leaves per tree")
    min_leaf_rows: int = Field(default=300, ge=1, description="minimum number of candidates in a leaf")
    feature_share: float = Field(default=0.5, gt=0, le=1, description="share of the features that each tree sees")
    truncation: int = Field(default=60, ge=1, description="positions from the top that pairs are made of")
    fused_weight: float = Field(
        default=50.0, ge=0, description="weight of the channels' fused order that trees correct"
    )
    threads: int = Field(default=2, ge=1, description="threads of LightGBM")
    seed: int = Field(default=1, ge=0, description="seed of everything random")


def choose_rounds(dataset: RankingDataset, held_out: Samples, config: LightGBMConfig) -> RankerTrial:
    """Trains on the windows of `dataset`, none of which may reach into the labels of `held_out`.

    Neighbouring looks are averaged before the best is chosen, since one look alone is noise. Raises DataError where no
    request has both a relevant and an irrelevant candidate.
    """
    booster = boost(parts_of(dataset), config.max_rounds, config, feature_names=dataset.feature_names)
    curve = _curve(booster, held_out, config)
    rounds = _best_rounds(curve)
    log.info("lightgbm: %d rounds, validation %s %.4f", rounds, METRIC, curve[rounds])
    features = np.asarray(held_out.features)
    scores = np.asarray(booster.predict(features, num_iteration=rounds, num_threads=config.threads), np.float64)
    scores += fused_scores(features, config, dataset.feature_names)
    return RankerTrial({"rounds": rounds}, scores, {str(n): value for n, value in curve.items()})


def train(dataset: RankingDataset, path: Path, config: LightGBMConfig, *, rounds: int) -> None:
    """Trains on all windows of `dataset` and writes the graph to `path`.

    Raises DataError where no request has both a relevant and an irrelevant candidate, ContractBroken where the ONNX
    graph does not score like LightGBM.
    """
    parts = parts_of(dataset)
    booster = boost(parts, rounds, config, feature_names=dataset.feature_names)
    probe = np.concatenate([part.features[:2_000] for part in parts])
    base = Base(list(dataset.feature_names).index(FUSED), config.fused_weight)
    export_onnx(booster, path, base=base, probe=probe)


@dataclass(frozen=True, slots=True)
class WindowRows:
    """The requests of one window that the ranker learns from."""

    features: NDArray[np.float32]
    labels: NDArray[np.int8]
    groups: NDArray[np.int64]


def parts_of(dataset: RankingDataset) -> list[WindowRows]:
    """The requests of each window that are learned from; raises DataError without any."""
    parts = []
    for window, chosen in zip(dataset.windows, dataset.training_requests(), strict=True):
        rows = np.repeat(chosen, window.samples.groups)
        parts.append(
            WindowRows(window.samples.features[rows], window.samples.labels[rows], window.samples.groups[chosen])
        )
    return parts


def boost(
    parts: Sequence[WindowRows], rounds: int, config: LightGBMConfig, *, feature_names: Sequence[str]
) -> lgb.Booster:
    """A booster of `rounds` trees on top of the fused order; the same input gives the same trees."""
    features = np.concatenate([part.features for part in parts])
    parameters = {
        "objective": "lambdarank",
        "label_gain": [0, 1],
        "lambdarank_truncation_level": config.truncation,
        "learning_rate": config.learning_rate,
        "num_leaves": config.leaves,
        "min_data_in_leaf": config.min_leaf_rows,
        "feature_fraction": config.feature_share,
        "monotone_constraints": [direction(name) for name in feature_names],
        "num_threads": config.threads,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lgb.Dataset(
        features,
        np.concatenate([part.labels for part in parts]),
        group=np.concatenate([part.groups for part in parts]),
        init_score=fused_scores(features, config, feature_names),
        feature_name=list(feature_names),
    )
    with tqdm(total=rounds, desc="lightgbm", unit="round", leave=False, disable=None) as progress:
        return lgb.train(parameters, data, num_boost_round=rounds, callbacks=[lambda _: progress.update()])


def direction(name: str) -> int:
    """1: more of the feature never lowers the score; -1: never raises it; 0: free."""
    if name == FUSED or name == "channels_returned" or name.endswith("_relative_score"):
        return 1
    if name.startswith(("item_count_", "item_percentile_")):
        return 1
    return -1 if name.endswith("_rank") else 0


def fused_scores(
    features: NDArray[np.float32], config: LightGBMConfig, feature_names: Sequence[str]
) -> NDArray[np.float64]:
    """float64[n]: what the trees start from."""
    return config.fused_weight * features[:, list(feature_names).index(FUSED)].astype(np.float64)


def _curve(booster: lgb.Booster, held_out: Samples, config: LightGBMConfig) -> dict[int, float]:
    features = np.asarray(held_out.features)
    scores = fused_scores(features, config, booster.feature_name())
    curve: dict[int, float] = {}
    for start in range(0, config.max_rounds, config.round_step):
        n = min(config.round_step, config.max_rounds - start)
        more = booster.predict(features, start_iteration=start, num_iteration=n, num_threads=config.threads)
        scores += np.asarray(more, np.float64)
        curve[start + n] = quality(held_out, scores)
    return curve


def _best_rounds(curve: dict[int, float]) -> int:
    """The rounds whose figure, averaged with its neighbours', is best; the smallest number among equals."""
    rounds, values = list(curve), np.asarray(list(curve.values()))
    edged = np.pad(values, 1, mode="edge")
    smooth = (edged[:-2] + edged[1:-1] + edged[2:]) / 3
    return rounds[int(np.argmax(smooth))]


@dataclass(frozen=True, slots=True)
class TreeRanker(RankerKind):
    """LightGBM LambdaRank."""

    name: ClassVar[str] = "lightgbm"
    config: LightGBMConfig

    def attempt(self, dataset: RankingDataset, held_out: LabelledWindow, folder: Path) -> RankerTrial:  # noqa: ARG002 - it is not continued
        """Chooses the number of rounds."""
        return choose_rounds(dataset, held_out.samples, self.config)

    def train(self, dataset: RankingDataset, path: Path, settings: TrialSettings) -> None:
        """Trains as many rounds."""
        train(dataset, path, self.config, rounds=int(settings.get("rounds", 1)))
