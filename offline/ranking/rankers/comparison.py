"""Every ranker on the same held-out requests, and the network without each of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offline.metrics.ranking import intervals
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankerTrial, request_quality, warm_part
from offline.ranking.rankers.steps import FoldSamples, RankerInputs, Rankers

WITHOUT: Mapping[str, Mapping[str, object]] = {
    "network without DIN": {"attention": False},
    "network without DCN-V2": {"crosses": False},
    "network without MMoE": {"experts": 1},
}
"""By row, what the network is configured without."""
BLENDED, REFERENCE = "blended order", "lightgbm"
_RESAMPLES = 1_000


@dataclass(frozen=True, slots=True)
class RankerRow:
    """One ranker on validation."""

    ranker: str
    ndcg: float
    """NDCG@10 of warm requests."""
    share: float
    """As a share of LightGBM's."""
    difference: tuple[float, float]
    """95 % bootstrap interval of (this − LightGBM), paired by request."""
    settings: dict[str, int | float]
    """What validation chose."""
    curve: dict[str, float]
    """NDCG@10 by rounds or epochs."""


def compare(rankers: Rankers, inputs: RankerInputs, validation: FoldSamples) -> list[RankerRow]:
    """LightGBM, the network, the network without each of its parts, and the rating model, each a step of its own;
    first the blended order that they start from. Rankers that found nothing to learn from are left out."""
    kinds = ["lightgbm", "network", *(["svd"] if inputs.rating else [])]
    trials = {kind: RankerTrial.load(rankers.attempt(kind, inputs, validation).folder) for kind in kinds}
    for name, changes in WITHOUT.items():
        network = rankers.configs.network.model_copy(update=dict(changes))
        lesser = replace(rankers, configs=replace(rankers.configs, network=network))
        trials[name] = RankerTrial.load(lesser.attempt("network", inputs, validation).folder)
    return rows_of({name: trial for name, trial in trials.items() if trial is not None}, validation.open())


def rows_of(trials: Mapping[str, RankerTrial], held_out: LabelledWindow) -> list[RankerRow]:
    """One row per trial, and the blended order's before them."""
    warm = warm_part(held_out).samples
    kept = np.repeat(held_out.samples.warm, held_out.samples.groups)
    if len(warm.labels) == len(kept):
        kept = np.ones(len(kept), np.bool_)
    figures = {BLENDED: request_quality(warm, -np.arange(len(warm.labels), dtype=np.float64))}
    figures |= {name: request_quality(warm, trial.scores[kept]) for name, trial in trials.items()}
    reference = figures.get(REFERENCE, figures[BLENDED])
    return [_row(name, values, reference, trials.get(name)) for name, values in figures.items()]


def table(rows: list[RankerRow]) -> str:
    """The rows as lines of text under a heading."""
    lines = [f"{'ranker':<24}{'ndcg@10':>9}{'share':>8}  {'minus lightgbm (95 %)':<24}settings"]
    for row in rows:
        low, high = row.difference
        chosen = " ".join(f"{name}={value:g}" for name, value in row.settings.items())
        lines.append(f"{row.ranker:<24}{row.ndcg:>9.4f}{row.share:>8.3f}  {f'[{low:+.4f}, {high:+.4f}]':<24}{chosen}")
    return "\n".join(lines)


def _row(
    name: str, values: NDArray[np.float64], reference: NDArray[np.float64], trial: RankerTrial | None
) -> RankerRow:
    requests = np.arange(len(values))
    low, high = intervals((values - reference)[:, None], requests, resamples=_RESAMPLES, seed=1)[0].tolist()
    share = float(values.mean() / reference.mean()) if reference.mean() else float("nan")
    settings, curve = (trial.settings, trial.curve) if trial else ({}, {})
    return RankerRow(name, float(values.mean()), share, (low, high), settings, curve)
