"""What re-ranking costs and what it buys: accuracy against coverage, calibration and diversity, over a sweep.

`curve` measures settings on any models and targets: on the validation fold to choose by, on the test fold to report.
Lists are recorded once and re-ranked for each setting, by the code that serves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.pipeline.rerank import Reranker, decade_shares, genre_shares
from offline.evaluation.evaluate import BootstrapConfig, Lists, Models, measure
from offline.evaluation.reranking.lists import (
    RankedList,
    RerankConfig,
    bonus_of,
    record_lists,
    reordered,
    sampled_requests,
)
from offline.evaluation.results import Figure
from offline.metrics.beyond_accuracy import divergence, intra_list_diversity, novelty
from offline.metrics.ranking import LONGEST, padded
from offline.protocols.targets import Targets
from recsys.errors import DataError

CUT = 10
EXPOSURES = (0.0, 1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.25, 5.5, 6.0)
"""Swept by default; where coverage comes from."""
WEIGHTS = (0.5, 1.0, 2.0, 4.0)
"""Swept by default of each other part."""
PARTS = ("exposure", "genre_calibration", "decade_calibration", "diversity")
"""The weights of `RerankConfig`."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting on the warm requests of some targets, all figures of the first ten positions."""

    settings: RerankConfig
    ndcg: Figure
    hit_rate: Figure
    coverage: float
    popularity: float
    """Mean share of the catalogue that is less popular than a recommended item."""
    novelty: float
    """Mean self-information of a recommended item, in bits: -log2 of its share of all events."""
    genre_divergence: float
    """Mean KL divergence of the lists' genres from the users' own: calibration error."""
    decade_divergence: float
    """The same for decades."""
    diversity: float
    """Mean over lists of 1 - the mean cosine of the genres of two of their items."""
    milliseconds: float
    """CPU time of re-ranking one list."""


def sweep(
    exposures: Sequence[float] = EXPOSURES,
    weights: Sequence[float] = WEIGHTS,
    *,
    base: RerankConfig | None = None,
) -> list[RerankConfig]:
    """Exposure, both calibrations and diversity, each alone. What is no weight is as in `base`."""
    fixed = {name: value for name, value in (base or RerankConfig()) if name not in PARTS}
    found = [{"exposure": exposure} for exposure in exposures]
    found += [{part: weight} for part in PARTS[1:] for weight in weights]
    return [RerankConfig.model_validate({**fixed, **weight}) for weight in found]


def curve(
    models: Models, targets: Targets, settings: Sequence[RerankConfig], *, bootstrap: BootstrapConfig, seed: int = 1
) -> list[Point]:
    """One point per setting, in order, over the warm requests. `seed` draws the users that bonuses are learned from.

    Raises DataError where no request is warm.
    """
    if not targets.warm.any():
        raise DataError("the curve is drawn over warm requests, and there is none; choose another cut-off")
    measured = _Measured(models, targets, record_lists(models, targets.requests), bootstrap)
    learned: dict[int, list[RankedList]] = {}
    points = []
    for setting in settings:
        bonus = _bonus(models, setting, seed, learned) if setting.exposure else None
        policy = setting.policy()
        points.append(measured.point(setting, Reranker(models.snapshot.catalogue, policy, bonus) if policy else None))
    return points


def choose(points: Sequence[Point], *, coverage: float) -> Point:
    """The point with the best NDCG among those that cover at least `coverage`; raises DataError where there is none."""
    wide = [point for point in points if point.coverage >= coverage]
    if not wide:
        most = max((point.coverage for point in points), default=0.0)
        raise DataError(f"no setting covers {coverage:g} of the catalogue, {most:.3f} at most; raise exposure or floor")
    return max(wide, key=lambda point: point.ndcg.mean)


def ndcg_at(points: Sequence[Point], coverage: float) -> float | None:
    """NDCG@10 at that coverage, interpolated between neighbouring points; None where the curve does not reach it."""
    ordered = sorted(points, key=lambda point: point.coverage)
    for left, right in pairwise(ordered):
        if left.coverage <= coverage <= right.coverage:
            share = (coverage - left.coverage) / ((right.coverage - left.coverage) or 1.0)
            return left.ndcg.mean + share * (right.ndcg.mean - left.ndcg.mean)
    return None


def save_curve(
    points: Sequence[Point],
    folder: Path,
    *,
    name: str,
    systems: Mapping[str, tuple[float, float]],
    remark: str = "",
) -> None:
    """Writes `<name>.json` and `<name>.png` into `folder`; `systems` are drawn too: coverage and NDCG@10 by name."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = [{**asdict(point), "settings": point.settings.model_dump(exclude_defaults=True)} for point in points]
    text = json.dumps({"remark": remark, "points": facts, "systems": systems}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n", "utf-8")
    draw(points, folder / f"{name}.png", title=f"{name}: {remark}" if remark else name, systems=systems)


def draw(points: Sequence[Point], path: Path, *, title: str, systems: Mapping[str, tuple[float, float]]) -> None:
    """Draws NDCG@10 against coverage@10, with intervals, one line per part of re-ranking."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(7, 4.5), layout="constrained")
    axes = picture.subplots()
    for part, its in _lines(points).items():
        bounds = [[p.ndcg.mean - p.ndcg.low for p in its], [p.ndcg.high - p.ndcg.mean for p in its]]
        axes.errorbar(
            [p.coverage for p in its], [p.ndcg.mean for p in its], bounds, marker="o", capsize=2, lw=1, label=part
        )
    for system, (coverage, ndcg) in systems.items():
        axes.plot([coverage], [ndcg], "k^")
        axes.annotate(system, (coverage, ndcg), textcoords="offset points", xytext=(5, 4))
    axes.set(xlabel=f"coverage@{CUT}", ylabel=f"NDCG@{CUT}, 95 % intervals", title=title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    picture.savefig(path, dpi=120, metadata={"Software": None})


def _lines(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Points by the parts of re-ranking that they use, by coverage; the one that uses none begins every line."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        policy = point.settings.policy()
        parts = [name for name, weight in policy if weight and name != "depth"] if policy else []
        lines.setdefault(" and ".join(parts).replace("_", " ") or "as ranked", []).append(point)
    start = lines.pop("as ranked", [])
    chosen = {name: [*start, *its] for name, its in lines.items()} or {"as ranked": start}
    return {name: sorted(its, key=lambda point: point.coverage) for name, its in chosen.items()}


def _bonus(
    models: Models, setting: RerankConfig, seed: int, learned: dict[int, list[RankedList]]
) -> NDArray[np.float32]:
    """Learned from lists that are recorded once for each number of users."""
    if setting.users not in learned:
        learned[setting.users] = record_lists(models, sampled_requests(models.snapshot, setting, seed))
    return bonus_of(learned[setting.users], models.snapshot.catalogue, setting)


@dataclass(frozen=True, slots=True)
class _Measured:
    """The lists that settings are applied to, and what they should hold."""

    models: Models
    targets: Targets
    lists: list[RankedList]
    bootstrap: BootstrapConfig

    def point(self, setting: RerankConfig, reranker: Reranker | None) -> Point:
        """The figures of one setting."""
        started = time.process_time()
        made = reordered(self.lists, reranker, CUT)
        seconds = time.process_time() - started
        lists = Lists(padded(made), np.zeros((len(made), LONGEST), np.float32))
        snapshot, catalogue = self.models.snapshot, self.models.snapshot.catalogue
        row = measure({"": lists}, snapshot, self.targets, name="", kind="", config=self.bootstrap).row("")
        warm = np.flatnonzero(self.targets.warm).tolist()
        rows = [catalogue.rows(made[i]) for i in warm]
        pasts = [catalogue.known_rows(self.lists[i].history.item_ids) for i in warm]
        return Point(
            setting,
            row.figures[f"ndcg@{CUT}"],
            row.figures[f"hit_rate@{CUT}"],
            coverage=row.coverage[CUT],
            popularity=row.popularity[CUT],
            novelty=novelty(rows, np.bincount(snapshot.events.item_rows, minlength=len(catalogue))),
            genre_divergence=divergence(pasts, rows, genre_shares(catalogue.genres)),
            decade_divergence=divergence(pasts, rows, decade_shares(catalogue.years)),
            diversity=intra_list_diversity(rows, catalogue.genres),
            milliseconds=1e3 * seconds / max(len(made), 1),
        )
