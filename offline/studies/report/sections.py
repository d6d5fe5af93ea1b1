"""The report's sections about vectors, one after the other; maps are in `offline.studies.report.maps`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from offline.studies.report import analysis, pictures
from offline.studies.report.config import ReportConfig
from offline.studies.report.embeddings import Embeddings
from offline.studies.report.page import ReportSection
from recsys.bundle import Bundle

SPACE = (
    "Vectors of the two-tower model; the inner product of a user's and an item's is the model's score. Items are "
    "compared by the cosine of their vectors without the mean, each dimension weighted by how much users differ in "
    "it: two items are alike where the same users score both high. Users are compared likewise."
)
USED = (
    "“Dimensions used” is the participation ratio of the covariance: 1 where all vectors lie on a line, as many as "
    "there are dimensions where they fill all evenly."
)
NEIGHBOURS = "Numbers are cosines. Sequels, remakes and films of one kind should stand here; odd ones are worth a look."
LENGTHS = (
    "Over the dimensions in which users differ. An inner product rewards long vectors that point where users do: where "
    "length depends on events, popularity is part of the vectors. Rare items may be long as well, pointing away "
    "from all users."
)
PAIRS_NOTE = (
    "Pairs of one genre should lie to the right of any two, and the nearest further still. Where any two are alike "
    "already, the space has collapsed and neighbours mean little."
)
GROUPS = (
    "Genres: share of the group's events, as a multiple of everybody's. Films: taken by many of the group and by "
    "fewer of the others."
)


def overview(embeddings: Embeddings, bundle: Bundle, config: ReportConfig) -> ReportSection:
    """How much of everything there is, and how far the vectors fill their space."""
    informative = embeddings.informative
    rows = [
        ("purpose, cut-off", f"{bundle.manifest.purpose}, {bundle.manifest.cutoff}"),
        ("items", f"{len(embeddings.catalogue):,}"),
        (f"cold items (fewer than {config.cold_events} events)", f"{int(cold_items(embeddings, config).sum()):,}"),
        ("users", f"{len(embeddings.users):,}"),
        ("events", f"{len(embeddings.event_items):,}"),
        ("dimensions", f"{embeddings.items.shape[1]}, of which users differ in {int(informative.sum())}"),
        ("dimensions used by items", f"{analysis.dimensions_used(embeddings.items[:, informative]):.1f}"),
        ("dimensions used by users", f"{analysis.dimensions_used(embeddings.users[:, informative]):.1f}"),
    ]
    return ReportSection(
        "What is shown",
        [SPACE, USED],
        header=("", "value"),
        rows=rows,
    )


def neighbours(embeddings: Embeddings, config: ReportConfig) -> ReportSection:
    """The most known items with the ones nearest to them."""
    rows = []
    for row in embeddings.best_known(config.films):
        near = analysis.nearest(embeddings, int(row), config.neighbours)
        rows.append(
            (
                title_of(embeddings, int(row)),
                ", ".join(f"{title_of(embeddings, other)} {cosine:.2f}" for other, cosine in near),
            )
        )
    return ReportSection(
        "Nearest items of the most known ones",
        [NEIGHBOURS],
        header=("item", "nearest items"),
        rows=rows,
    )


def lengths(embeddings: Embeddings, folder: Path) -> ReportSection:
    """Draws lengths of vectors against events."""
    lengths = [np.linalg.norm(part[:, embeddings.informative], axis=1) for part in (embeddings.items, embeddings.users)]
    events = embeddings.item_events
    pictures.draw_norms(folder / "lengths.png", lengths[0], events, lengths[1])
    correlation = float(spearmanr(lengths[0], events).statistic)
    return ReportSection(
        "Lengths",
        [LENGTHS, f"Rank correlation of length and events: {correlation:.2f}."],
        picture="lengths.png",
    )


def pair_similarity(embeddings: Embeddings, folder: Path, config: ReportConfig) -> ReportSection:
    """Draws and lists how like each other pairs are."""
    found = analysis.pair_similarity(embeddings, seed=config.report_seed)
    pictures.draw_similarity(folder / "similarity.png", found)
    kinds = {
        "any two items": found.any_items,
        "two items of one genre": found.genre_items,
        "an item and its nearest": found.nearest_items,
        "any two users": found.any_users,
    }
    rows = [
        (name, *(f"{value:.2f}" for value in (values.mean(), *np.quantile(values, [0.05, 0.5, 0.95]))))
        for name, values in kinds.items()
        if len(values)
    ]
    return ReportSection(
        "PairSimilarity of pairs",
        [PAIRS_NOTE],
        picture="similarity.png",
        header=("cosine of", "mean", "5 %", "median", "95 %"),
        rows=rows,
    )


def groups(embeddings: Embeddings, folder: Path, config: ReportConfig) -> ReportSection:
    """Draws groups of users, and lists what they like."""
    labels, groups = analysis.user_groups(embeddings, config.clusters, seed=config.report_seed)
    points = analysis.flat_map(embeddings.user_space, method="pca", seed=config.report_seed)
    names = embeddings.catalogue.genre_names
    pictures.draw_groups(folder / "users.png", points, labels, groups, names)
    rows = [
        (
            str(number),
            f"{group.users:,}",
            f"{group.median_events:.0f}",
            ", ".join(_leaning(group.genre_lift, names)),
            ", ".join(title_of(embeddings, row) for row in group.films),
        )
        for number, group in enumerate(groups, start=1)
    ]
    return ReportSection(
        "Groups of users",
        [f"k-means with {len(groups)} groups.", GROUPS],
        picture="users.png",
        header=("group", "users", "median events", "genres", "films"),
        rows=rows,
    )


def _leaning(lift: NDArray[np.float64], names: tuple[str, ...]) -> list[str]:
    """The three genres that a group takes most above everybody's share."""
    order = np.argsort(-np.nan_to_num(lift), kind="stable")[:3]
    return [f"{names[column]} {lift[column]:.1f} ×" for column in order if lift[column] > 1]


def cold_items(embeddings: Embeddings, config: ReportConfig) -> NDArray[np.bool_]:
    """bool[items]: whether an item has fewer events than `cold_events`."""
    return embeddings.item_events < config.cold_events


def title_of(embeddings: Embeddings, row: int) -> str:
    """The title of an item, with its year where that is known."""
    year = int(embeddings.catalogue.years[row])
    return embeddings.titles[row] + (f" ({year})" if year > 0 else "")
