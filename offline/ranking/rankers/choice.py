"""Which ranker is published: one of those tried, or a weighted sum of them, and whether it beats the blended order."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from offline.metrics.text_table import markdown
from offline.ranking.blend import METRIC
from offline.ranking.rankers.config import RankerConfig
from offline.ranking.rankers.ranking_dataset import RankerTrial, WindowFiles, blended_quality, quality, spread
from offline.ranking.samples import Samples

log = logging.getLogger(__name__)

CHOICE_FILE = "choice.json"
BLEND = "blend"


@dataclass(frozen=True, slots=True)
class RankerChoice:
    """The ranker that validation selects, and by which margins."""

    ranker: str
    """The kind that is published: one that was tried, or `blend`."""
    weights: dict[str, float]
    """Weight of each kind's score in the published one: 1 for a kind alone."""
    settings: dict[str, dict[str, int | float]]
    """By kind, what validation chose and training on everything uses."""
    ranking: Literal["ranked", "blended"]
    """Whether ranking pays at all."""
    ranked: float
    """Validation NDCG@10 of the published ranker."""
    blended: float
    """Validation NDCG@10 of the blended order."""
    rankers: dict[str, float]
    """Validation NDCG@10 by kind, and of the blend where there is one."""
    curves: dict[str, dict[str, float]]
    """By kind, validation NDCG@10 by rounds or epochs."""

    @property
    def margin(self) -> float:
        """By how much the published ranker leads the blended order; negative where it does not."""
        return self.ranked - self.blended

    @property
    def title(self) -> str:
        """The published ranker, a blend by the kinds that are added up in it."""
        return " + ".join(self.weights)

    def figures(self) -> str:
        """What the published ranker reached on validation, for a note."""
        metric = METRIC.upper()
        if not self.rankers:
            return f"no ranker had anything to learn from, validation {metric} {self.blended:.4f} blended"
        return f"{self.title}, validation {metric} {self.ranked:.4f} against {self.blended:.4f} blended"

    def sentence(self) -> str:
        """The same with the margin, and which order is served."""
        by = f" ({self.margin:+.4f})" if self.rankers else ""
        return f"{self.figures()}{by}; the {self.ranking} order is served"

    def table(self) -> str:
        """Every ranker that was tried, then the blended order, as a Markdown table."""
        cells = [["ranker", f"validation {METRIC.upper()}", "less the blended order", ""]]
        for kind, value in self.rankers.items():
            own = kind == self.ranker
            title, remark = (self.title, "published") if own else (kind, "")
            cells.append([title, f"{value:.4f}", f"{value - self.blended:+.4f}", remark])
        return markdown([*cells, ["blended order", f"{self.blended:.4f}", "", ""]])

    def facts(self) -> dict[str, Any]:
        """Everything and the margin, for JSON."""
        return {**asdict(self), "margin": self.margin}

    def save(self, folder: Path) -> None:
        """Writes `CHOICE_FILE`."""
        (folder / CHOICE_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what `save` wrote."""
        return cls(**json.loads((folder / CHOICE_FILE).read_text("utf-8")))


def write_choice(trials: Mapping[str, Path], validation: WindowFiles, folder: Path, *, config: RankerConfig) -> None:
    """Writes the choice among the trials, folders by kind, below `folder`; those with nothing to learn from are out."""
    found = {name: RankerTrial.load(place) for name, place in trials.items()}
    tried = {name: trial for name, trial in found.items() if trial is not None}
    choose_ranker(tried, validation.open().samples, config).save(folder)


def choose_ranker(trials: Mapping[str, RankerTrial], held_out: Samples, config: RankerConfig) -> RankerChoice:
    """The choice among `trials`, by kind: the best on `held_out` or the one that `config.kind` names; of equals the
    first, and a kind alone before the blend. Without trials, nothing could be learned: the blended order is served.
    """
    blended = blended_quality(held_out)
    if not trials:
        return RankerChoice(config.tried[0], {config.tried[0]: 1.0}, {}, "blended", 0.0, blended, {}, {})
    figures = {kind: quality(held_out, trial.scores) for kind, trial in trials.items()}
    shares: dict[str, float] = {}
    if len(trials) > 1 and config.kind in ("auto", BLEND):
        shares, figures[BLEND] = _best_shares(trials, held_out, config.blend_steps)
    best = _best_of(figures, config) if config.kind == "auto" else config.kind
    weights = {best: 1.0}
    if best == BLEND:
        weights = {kind: share / spread(held_out, trials[kind].scores) for kind, share in shares.items() if share > 0}
    choice = RankerChoice(
        best,
        weights,
        {kind: trial.settings for kind, trial in trials.items()},
        "ranked" if figures[best] > blended else "blended",
        figures[best],
        blended,
        figures,
        {kind: trial.curve for kind, trial in trials.items()},
    )
    _report(choice)
    return choice


def _best_of(figures: Mapping[str, float], config: RankerConfig) -> str:
    """The best kind, or the blend where it leads that by enough: two graphs cost the time of both."""
    alone = max((kind for kind in figures if kind != BLEND), key=lambda kind: figures[kind])
    return BLEND if figures.get(BLEND, -1.0) > figures[alone] + config.blend_gain else alone


def _best_shares(trials: Mapping[str, RankerTrial], held_out: Samples, steps: int) -> tuple[dict[str, float], float]:
    """Shares of the trials' scores, each divided by its spread, that are best together, and how good they are.

    A refitted ranker has as many rounds or epochs as the trial, so its scores spread alike.
    """
    scores = np.stack([trial.scores / spread(held_out, trial.scores) for trial in trials.values()])
    best, best_value = np.eye(len(scores))[0], -1.0
    for share in _simplex(len(scores), steps):
        value = quality(held_out, share @ scores)
        if value > best_value:
            best, best_value = share, value
    return dict(zip(trials, best.tolist(), strict=True)), best_value


def _simplex(n: int, steps: int) -> Iterator[NDArray[np.float64]]:
    """Every way to share 1 among n, in multiples of 1 / steps."""

    def shares(left: int, parts: int) -> Iterator[list[int]]:
        if parts == 1:
            yield [left]
            return
        for first in range(left, -1, -1):
            for rest in shares(left - first, parts - 1):
                yield [first, *rest]

    for counts in shares(steps, n):
        yield np.asarray(counts, np.float64) / steps


def _report(choice: RankerChoice) -> None:
    for kind, value in choice.rankers.items():
        remark = " (published)" if kind == choice.ranker else ""
        log.info("ranker: %s, validation %s %.4f%s", kind, METRIC, value, remark)
    log.info("ranker: %s", choice.sentence())
