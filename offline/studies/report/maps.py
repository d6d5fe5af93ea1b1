"""Items on a plane: by genre, and where the cold ones lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offline.studies.report import analysis, pictures
from offline.studies.report.config import ReportConfig
from offline.studies.report.embeddings import Embeddings
from offline.studies.report.page import ReportSection
from offline.studies.report.sections import cold_items, title_of
from recsys.domain import Floats64, Ids

MAP = (
    "Only nearness means something; directions, and distances across the map, do not. An item of several genres has"
    " the colour of the rarest one."
)
COLD = (
    "Their vectors come from what describes them. Those in a region of their own genre can be found by users with "
    "that taste; a lump of their own in one place means that they all look alike to the model."
)
NONE_COLD = "A production bundle holds items without events."


@dataclass(frozen=True)
class ItemMap:
    """Items laid out on a plane once, for two pictures."""

    rows: Ids
    points: Floats64
    genres: list[str]
    kinds: Ids

    @classmethod
    def of(cls, embeddings: Embeddings, config: ReportConfig) -> ItemMap:
        """The most known items, and at least a tenth of the places for cold ones."""
        cold = np.flatnonzero(cold_items(embeddings, config))
        known = embeddings.best_known(len(embeddings.catalogue))
        rng = np.random.default_rng(config.report_seed)
        few = rng.permutation(cold)[: max(config.map_items // 10, config.map_items - (len(known) - len(cold)))]
        rows = np.concatenate([known[~np.isin(known, cold)][: config.map_items - len(few)], np.sort(few)])
        points = analysis.flat_map(embeddings.item_space[rows], method=config.map_method, seed=config.report_seed)
        return cls(rows, points, *analysis.shown_genres(embeddings, rows))

    def section(self, embeddings: Embeddings, folder: Path, config: ReportConfig) -> ReportSection:
        """Draws the map with the names of the most known items."""
        labels = [(row, embeddings.titles[self.rows[row]]) for row in range(min(config.films, len(self.rows)))]
        events = embeddings.item_events[self.rows]
        pictures.draw_map(folder / "map.png", self.points, self.genres, self.kinds, events=events, labels=labels)
        method = "t-SNE" if config.map_method == "tsne" else "PCA"
        return ReportSection(
            "Map of items",
            [f"{len(self.rows):,} of {len(embeddings.catalogue):,} items, {method}, seed {config.report_seed}.", MAP],
            picture="map.png",
        )

    def cold_section(self, embeddings: Embeddings, folder: Path, config: ReportConfig) -> ReportSection:
        """Draws where cold items lie, and lists the coldest with the known items nearest to them."""
        cold = cold_items(embeddings, config)
        on_map = cold[self.rows]
        counts = f"{int(cold.sum()):,} items are, {int(on_map.sum()):,} on the map"
        counted = f"Cold: fewer than {config.cold_events} events; {counts}."
        if not on_map.any():
            return ReportSection("Places of cold items", [counted, NONE_COLD])
        titles = [embeddings.titles[row] for row in self.rows]
        pictures.draw_cold(folder / "cold.png", self.points, self.genres, self.kinds, cold=on_map, titles=titles)
        return ReportSection(
            "Places of cold items",
            [counted, COLD, _company(embeddings, cold)],
            picture="cold.png",
            header=("cold item", "events", "nearest items with events"),
            rows=self._examples(embeddings, cold, config),
        )

    def _examples(
        self, embeddings: Embeddings, cold: NDArray[np.bool_], config: ReportConfig
    ) -> list[tuple[str, str, str]]:
        rows = self.rows[cold[self.rows]]
        fewest = rows[np.argsort(embeddings.item_events[rows], kind="stable")][: config.films // 2 or 1]
        return [
            (
                title_of(embeddings, int(row)),
                str(embeddings.item_events[row]),
                ", ".join(title_of(embeddings, other) for other in _known_near(embeddings, int(row), ~cold, 4)),
            )
            for row in fewest
        ]


def _known_near(embeddings: Embeddings, row: int, known: NDArray[np.bool_], n: int) -> list[int]:
    similarity = np.where(known, embeddings.item_space @ embeddings.item_space[row], -np.inf)
    similarity[row] = -np.inf
    return [int(other) for other in np.argsort(-similarity, kind="stable")[:n] if np.isfinite(similarity[other])]


def _company(embeddings: Embeddings, cold: NDArray[np.bool_]) -> str:
    """How often a cold item's nearest known one shares a genre with it, against any known one."""
    genres = embeddings.catalogue.genres
    known, rows = np.flatnonzero(~cold), np.flatnonzero(cold & genres.any(axis=1))
    if not len(rows) or not len(known):
        return "No cold item has a genre to compare by."
    near = known[(embeddings.item_space[rows] @ embeddings.item_space[known].T).argmax(axis=1)]
    shared = (genres[rows] & genres[near]).any(axis=1).mean()
    by_chance = np.mean([(genres[known] & genres[row]).any(axis=1).mean() for row in rows])
    return (
        f"The known item nearest to a cold one shares a genre with it in {shared:.0%} of the cases; "
        f"any known item would in {by_chance:.0%}."
    )
