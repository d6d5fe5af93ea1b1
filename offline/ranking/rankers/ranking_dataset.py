"""What rankers are trained and evaluated on: labelled requests of several windows, with items numbered alike."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from offline.metrics.ranking import LONGEST, per_request
from offline.ranking.blend import METRIC, MIN_WARM_REQUESTS
from offline.ranking.samples import SampleHistories, Samples
from recsys.domain import Ids
from recsys.errors import DataError

TRIAL_FILE, SCORES_FILE = "trial.json", "scores.npy"


@dataclass(frozen=True, slots=True)
class LabelledWindow:
    """The samples of one window, and the catalogue that their rows belong to."""

    samples: Samples
    item_ids: Ids
    """Ids by catalogue row at the window's cut-off, ascending."""

    @classmethod
    def open(cls, folder: Path, item_ids: Ids) -> LabelledWindow:
        """Samples that were saved below `folder`."""
        return cls(Samples.open(folder), item_ids)

    def rows_in(self, item_ids: Ids) -> NDArray[np.int64]:
        """int64[len(self.item_ids)]: the row of each item in the catalogue `item_ids`, -1 where it is not there."""
        rows = np.minimum(np.searchsorted(item_ids, self.item_ids), len(item_ids) - 1)
        return np.where(item_ids[rows] == self.item_ids, rows, -1)


@dataclass(frozen=True, slots=True)
class RankingDataset:
    """Everything that was known at a cut-off, as rankers see it."""

    windows: tuple[LabelledWindow, ...]
    """Earlier cut-offs, ascending, labelled by what followed up to this one."""
    item_ids: Ids
    """The catalogue that a trained graph is served with: ids by row, ascending."""
    feature_names: tuple[str, ...]
    rating: Path | None = None
    """Folder with the rating model of the cut-off, where a ranker needs one."""
    cold_share: float = 0.3
    """Most requests without a history, per request with one, that are learned from."""
    seed: int = 1
    """Of the draw of cold requests."""

    @property
    def has_signal(self) -> bool:
        """Whether any request has both a relevant and an irrelevant candidate."""
        return any(mask.any() for mask in self._masks())

    def training_requests(self) -> list[NDArray[np.bool_]]:
        """Per window bool[requests]: those that are learned from. Raises DataError where there is none."""
        masks = self._masks()
        if not any(mask.any() for mask in masks):
            raise DataError(
                "the ranker has nothing to learn from: no candidate of any earlier cut-off was ever used later"
            )
        return masks

    def _masks(self) -> list[NDArray[np.bool_]]:
        return [chosen_requests(window.samples, self.cold_share, seed=self.seed) for window in self.windows]


@dataclass(frozen=True, slots=True)
class WindowFiles:
    """A labelled window on disk."""

    folder: Path
    item_ids: Ids

    def open(self) -> LabelledWindow:
        """The samples, memory-mapped."""
        return LabelledWindow.open(self.folder, self.item_ids)


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """A `RankingDataset` on disk; the fields are its own."""

    windows: tuple[WindowFiles, ...]
    item_ids: Ids
    feature_names: tuple[str, ...]
    rating: Path | None
    cold_share: float
    seed: int

    def open(self) -> RankingDataset:
        """All windows, memory-mapped."""
        windows = tuple(window.open() for window in self.windows)
        return RankingDataset(windows, self.item_ids, self.feature_names, self.rating, self.cold_share, self.seed)


@dataclass(frozen=True, slots=True)
class RankerTrial:
    """What one ranker reached on validation."""

    settings: dict[str, int | float]
    """What validation chose, and training on everything uses: rounds, epochs, weights of tasks."""
    scores: NDArray[np.float64]
    """float64[n]: of the held-out candidates."""
    curve: dict[str, float]
    """The figure that chose, by rounds or epochs; empty where there was nothing to choose."""

    def save(self, folder: Path) -> None:
        """Writes `TRIAL_FILE` and `SCORES_FILE`."""
        facts = {"settings": self.settings, "curve": self.curve}
        (folder / TRIAL_FILE).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
        np.save(folder / SCORES_FILE, self.scores)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Reads what `save` wrote; None where there was nothing to learn from."""
        if not (folder / TRIAL_FILE).is_file():
            return None
        facts = json.loads((folder / TRIAL_FILE).read_text("utf-8"))
        return cls(facts["settings"], np.load(folder / SCORES_FILE, allow_pickle=False), facts["curve"])


def chosen_requests(samples: Samples, cold_share: float, *, seed: int) -> NDArray[np.bool_]:
    """bool[requests]: those with both kinds of candidates: all warm ones, and a seeded draw of at most `cold_share`
    cold ones per warm one (all of them where hardly any is warm)."""
    starts = np.cumsum(samples.groups) - samples.groups
    found = np.add.reduceat(np.append(samples.labels, 0).astype(np.int64), starts) if len(starts) else starts
    kept = (samples.groups > 0) & (found > 0) & (found < samples.groups)
    warm = kept & samples.warm
    cold = np.flatnonzero(kept & ~samples.warm)
    most = int(cold_share * warm.sum()) if warm.sum() >= MIN_WARM_REQUESTS else len(cold)
    chosen = warm.copy()
    chosen[np.random.default_rng(seed).permutation(cold)[:most]] = True
    return chosen


def warm_part(window: LabelledWindow) -> LabelledWindow:
    """The requests that `quality` looks at: the warm ones, or all where hardly any is warm."""
    samples = window.samples
    if samples.warm.sum() < MIN_WARM_REQUESTS or samples.warm.all():
        return window
    rows, events = np.repeat(samples.warm, samples.groups), np.repeat(samples.warm, np.diff(samples.histories.indptr))
    lengths = np.diff(samples.histories.indptr)[samples.warm]
    histories = SampleHistories(
        np.concatenate([[0], np.cumsum(lengths)]),
        samples.histories.rows[events],
        samples.histories.values[events],
        samples.histories.ages[events],
    )
    of_rows = {name: getattr(samples, name)[rows] for name in ("features", "labels", "item_rows", "ratings")}
    of_requests = {name: getattr(samples, name)[samples.warm] for name in ("groups", "relevant_counts", "warm")}
    return replace(window, samples=replace(samples, histories=histories, **of_rows, **of_requests))


def quality(samples: Samples, scores: NDArray[np.float64]) -> float:
    """NDCG@10 in order of `scores`: the mean over warm requests, over all where hardly any is warm; 0 without any."""
    values = request_quality(samples, scores)
    chosen = samples.warm if samples.warm.sum() >= MIN_WARM_REQUESTS else np.ones(len(values), np.bool_)
    return float(values[chosen].mean()) if len(values) else 0.0


def request_quality(samples: Samples, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[requests]: NDCG@10 of each request in order of `scores`; items that recall missed count as misses."""
    starts = np.cumsum(samples.groups) - samples.groups
    requests = np.repeat(np.arange(len(samples.groups)), samples.groups)
    order = np.lexsort((-scores, requests))
    positions = np.arange(len(scores)) - np.repeat(starts, samples.groups)
    top = positions < LONGEST
    hits = np.zeros((len(samples.groups), LONGEST), np.bool_)
    hits[requests[top], positions[top]] = samples.labels[order][top]
    return per_request(hits, samples.relevant_counts, cuts=(10,))[METRIC]


def blended_quality(samples: Samples) -> float:
    """The quality of the order that candidates come in: the channels' blended one."""
    return quality(samples, -np.arange(len(samples.labels), dtype=np.float64))


def spread(samples: Samples, scores: NDArray[np.float64]) -> float:
    """The mean, over requests, of the standard deviation of a request's scores; 1 where all are equal."""
    parts = [part for part in np.split(scores, np.cumsum(samples.groups)[:-1]) if len(part)]
    return float(np.mean([part.std() for part in parts]) if parts else 0.0) or 1.0
