"""The second stage: LightGBM LambdaRank over the features of candidates, exported to ONNX.

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
from typing import Literal

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from offline.blend import FEWEST_WARM, METRIC
from offline.metrics import LONGEST, per_request
from offline.ranker_export import Base, export_onnx
from offline.samples import Samples
from rank_server.scoring import GRAPH_FILE
from recsys.errors import DataError
from recsys.features import FUSED

log = logging.getLogger(__name__)


class RankerConfig(BaseModel):
    """LightGBM's parameters, and how rounds are chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_rounds: int = Field(default=120, ge=1, description="most boosting rounds")
    round_step: int = Field(default=10, ge=1, description="rounds between two looks at validation")
    learning_rate: float = Field(default=0.05, gt=0, description="shrinkage of each tree")
    leaves: int = Field(default=15, ge=2, description="most leaves of a tree")
    min_leaf_rows: int = Field(default=300, ge=1, description="fewest candidates in a leaf")
    feature_share: float = Field(default=0.5, gt=0, le=1, description="share of the features that each tree sees")
    truncation: int = Field(default=60, ge=1, description="places from the top that pairs are made of")
    fused_weight: float = Field(
        default=50.0, ge=0, description="weight of the channels' fused order that trees correct"
    )
    cold_share: float = Field(
        default=0.3, ge=0, description="most requests without a history, per request with one, that are learned from"
    )
    threads: int = Field(default=2, ge=1, description="threads of LightGBM")
    seed: int = Field(default=1, ge=0, description="seed of everything random")


@dataclass(frozen=True, slots=True)
class Choice:
    """What validation says."""

    rounds: int
    ranking: Literal["ranked", "blended"]
    ranked: float
    """Validation NDCG@10 of the ranker with these rounds."""
    blended: float
    """Validation NDCG@10 of the blended order."""
    curve: dict[int, float]
    """Validation NDCG@10 by number of rounds."""


def choose_rounds(
    training: Sequence[Path], validation: Path, config: RankerConfig, *, feature_names: Sequence[str]
) -> Choice:
    """Trains on the samples in `training`, none of which may reach into the labels of those in `validation`.

    Looks at warm users where there are enough of them, at all otherwise. Neighbouring looks are averaged before the
    best is chosen, since one look alone is noise. Where nothing could be learned from, the blended order is served.
    """
    held_out = Samples.open(validation)
    blended = quality(held_out, -np.arange(len(held_out.labels), dtype=np.float64))
    parts = [usable(Samples.open(folder), config) for folder in training]
    if not any(part.positives for part in parts) or not len(held_out.groups):
        return Choice(1, "blended", 0.0, blended, {})
    booster = boost(parts, config.max_rounds, config, feature_names=feature_names)
    curve = _curve(booster, held_out, config)
    rounds = _best_rounds(curve)
    ranking: Literal["ranked", "blended"] = "ranked" if curve[rounds] > blended else "blended"
    log.info("ranker: %d rounds, validation %s %.4f, blended %.4f", rounds, METRIC, curve[rounds], blended)
    return Choice(rounds, ranking, curve[rounds], blended, curve)


def train(
    training: Sequence[Path], folder: Path, config: RankerConfig, *, rounds: int, feature_names: Sequence[str]
) -> None:
    """Trains on all samples in `training` and writes `rank/ranker.onnx` below `folder`.

    Raises DataError where no request of any sample has both a relevant and an irrelevant candidate, ContractBroken
    where the ONNX graph does not score like LightGBM.
    """
    parts = [usable(Samples.open(path), config) for path in training]
    if not any(part.positives for part in parts):
        raise DataError("the ranker has nothing to learn from: no candidate of any earlier cut-off was ever used later")
    booster = boost(parts, rounds, config, feature_names=feature_names)
    (folder / GRAPH_FILE).parent.mkdir(parents=True, exist_ok=True)
    probe = np.concatenate([part.features[:2_000] for part in parts])
    base = Base(list(feature_names).index(FUSED), config.fused_weight)
    export_onnx(booster, folder / GRAPH_FILE, base=base, probe=probe)


@dataclass(frozen=True, slots=True)
class Part:
    """The requests of one window that the ranker learns from."""

    features: NDArray[np.float32]
    labels: NDArray[np.int8]
    groups: NDArray[np.int64]

    @property
    def positives(self) -> int:
        """Relevant candidates."""
        return int(self.labels.sum())


def usable(samples: Samples, config: RankerConfig) -> Part:
    """Requests with both kinds of candidates: all warm ones, and a seeded draw of the cold ones."""
    starts = np.cumsum(samples.groups) - samples.groups
    found = np.add.reduceat(np.append(samples.labels, 0).astype(np.int64), starts) if len(starts) else starts
    kept = (samples.groups > 0) & (found > 0) & (found < samples.groups)
    warm = kept & samples.warm
    cold = np.flatnonzero(kept & ~samples.warm)
    most = int(config.cold_share * warm.sum()) if warm.sum() >= FEWEST_WARM else len(cold)
    rng = np.random.default_rng(config.seed)
    chosen = warm.copy()
    chosen[rng.permutation(cold)[:most]] = True
    rows = np.repeat(chosen, samples.groups)
    return Part(samples.features[rows], samples.labels[rows], samples.groups[chosen])


def boost(parts: Sequence[Part], rounds: int, config: RankerConfig, *, feature_names: Sequence[str]) -> lgb.Booster:
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
    return lgb.train(parameters, data, num_boost_round=rounds)


def direction(name: str) -> int:
    """1: more of the feature never lowers the score; -1: never raises it; 0: free."""
    if name == FUSED or name == "channels_returned" or name.endswith("_relative_score"):
        return 1
    if name.startswith(("item_count_", "item_percentile_")):
        return 1
    return -1 if name.endswith("_rank") else 0


def fused_scores(
    features: NDArray[np.float32], config: RankerConfig, feature_names: Sequence[str]
) -> NDArray[np.float64]:
    """float64[n]: what the trees start from."""
    return config.fused_weight * features[:, list(feature_names).index(FUSED)].astype(np.float64)


def quality(samples: Samples, scores: NDArray[np.float64]) -> float:
    """NDCG@10 of the samples' requests in order of `scores`; items that recall missed count as misses."""
    starts = np.cumsum(samples.groups) - samples.groups
    requests = np.repeat(np.arange(len(samples.groups)), samples.groups)
    order = np.lexsort((-scores, requests))
    places = np.arange(len(scores)) - np.repeat(starts, samples.groups)
    top = places < LONGEST
    hits = np.zeros((len(samples.groups), LONGEST), np.bool_)
    hits[requests[top], places[top]] = samples.labels[order][top]
    values = per_request(hits, samples.relevant_counts, cuts=(10,))[METRIC]
    chosen = samples.warm if samples.warm.sum() >= FEWEST_WARM else np.ones(len(values), np.bool_)
    return float(values[chosen].mean()) if len(values) else 0.0


def _curve(booster: lgb.Booster, held_out: Samples, config: RankerConfig) -> dict[int, float]:
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
    """The rounds whose figure, averaged with its neighbours', is best; of equals the fewest."""
    rounds, values = list(curve), np.asarray(list(curve.values()))
    edged = np.pad(values, 1, mode="edge")
    smooth = (edged[:-2] + edged[1:-1] + edged[2:]) / 3
    return rounds[int(np.argmax(smooth))]
