"""The pictures of the report, drawn without a screen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from offline.studies.report.analysis import Group, PairSimilarity
from offline.studies.report.labels import place_labels
from recsys.domain import Ids

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC3311", "#AA4499", "#56B4E9", "#7A5A2E", "#1B1B1B")
"""Okabe and Ito's palette, with the pale ones replaced: distinct for colour-blind readers, and on white."""
OTHER = "#C4C4C4"
DOTS_PER_INCH = 130
STRONGEST_LIFT = 3.0
"""Genre shares that are this many times everybody's, or more, have the darkest colour."""

Points = NDArray[np.float64]


@contextmanager
def _picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure that is written to `path`; letters that the font lacks are drawn as boxes, without a warning each."""
    figure = Figure((width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield figure
        figure.savefig(path)


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("0.85")


def _plain(axes: Axes, title: str, across: str, along: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(along)
    axes.spines[["top", "right"]].set_visible(False)


def _sizes(events: Ids) -> NDArray[np.float64]:
    return np.asarray(3.0 + 4.0 * np.log1p(events), np.float64)


def _scatter_by_genre(
    axes: Axes, points: Points, genres: Sequence[str], kinds: Ids, sizes: NDArray[np.float64]
) -> None:
    """Dots coloured by genre, the most frequent genre at the bottom, and a legend next to them."""
    for kind, name, colour in _kinds(genres):
        chosen = kinds == kind
        if chosen.any():
            axes.scatter(
                points[chosen, 0], points[chosen, 1], s=sizes[chosen], c=colour, alpha=0.7, linewidths=0, label=name
            )
    _legend(axes)


def _kinds(genres: Sequence[str]) -> list[tuple[int, str, str]]:
    """Index, name and colour of each genre, and first of what has none of them."""
    named = [(kind, name, COLOURS[kind]) for kind, name in enumerate(genres)]
    return [(-1, "other", OTHER), *named]


def _legend(axes: Axes) -> None:
    """Beside the picture, `other` last."""
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda row: names[row] == "other")
    legend = axes.legend(
        [handles[row] for row in order], [names[row] for row in order],
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9,
    )  # fmt: skip
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set(sizes=[45], alpha=1.0)


def draw_map(
    path: Path, points: Points, genres: Sequence[str], kinds: Ids, *, events: Ids, labels: Sequence[tuple[int, str]]
) -> None:
    """Items by genre, larger with more events; `labels` are rows of `points` and their titles."""
    with _picture(path, 11, 8.5) as figure:
        axes = figure.subplots()
        _bare(axes, "Items whose vectors are alike, coloured by genre; larger: more events")
        _scatter_by_genre(axes, points, genres, kinds, _sizes(events))
        named = points[[row for row, _ in labels]]
        axes.scatter(named[:, 0], named[:, 1], s=42, facecolors="none", edgecolors="black", linewidths=0.9, zorder=4)
        place_labels(axes, named, [title for _, title in labels])


def draw_cold(
    path: Path, points: Points, genres: Sequence[str], kinds: Ids, *, cold: NDArray[np.bool_], titles: Sequence[str]
) -> None:
    """Where cold items lie among the others, which are pale; `titles` are those of the rows of `points`."""
    with _picture(path, 11, 8.5) as figure:
        axes = figure.subplots()
        _bare(axes, "Cold items (with an edge) among all others (pale), coloured by genre")
        for kind, name, colour in _kinds(genres):
            pale, edged = points[(kinds == kind) & ~cold], points[(kinds == kind) & cold]
            axes.scatter(pale[:, 0], pale[:, 1], s=7, c=colour, alpha=0.22, linewidths=0)
            if len(edged):
                axes.scatter(
                    edged[:, 0], edged[:, 1], s=30, c=colour, edgecolors="black", linewidths=0.6, label=name, zorder=3
                )
        _legend(axes)
        shown = _spread_out(points, np.flatnonzero(cold), 16)
        place_labels(axes, points[shown], [titles[row] for row in shown])


def _spread_out(points: Points, rows: Ids, n: int) -> Ids:
    """At most `n` of `rows`, each the farthest from those before it."""
    if not len(rows):
        return rows
    chosen = [0]
    while len(chosen) < min(n, len(rows)):
        gaps = np.linalg.norm(points[rows][:, None] - points[rows[chosen]][None], axis=2).min(axis=1)
        chosen.append(int(gaps.argmax()))
    return rows[chosen]


def draw_norms(path: Path, item_norms: Points, events: Ids, user_norms: Points) -> None:
    """Lengths of item vectors against how many events the items have, and lengths of user vectors."""
    with _picture(path, 11, 4.4) as figure:
        left, right = figure.subplots(1, 2)
        _plain(left, "Length of item vectors", "events of the item (+1)", "length")
        left.scatter(events + 1, item_norms, s=6, c=COLOURS[0], alpha=0.35, linewidths=0)
        left.set_xscale("log")
        _median_line(left, events, item_norms)
        _plain(right, "Length of user vectors", "length", "users")
        right.hist(user_norms, bins=50, color=COLOURS[0])


def _median_line(axes: Axes, events: Ids, norms: Points) -> None:
    """The median length by decile of events."""
    edges = np.unique(np.quantile(events, np.linspace(0, 1, 11)))
    groups = np.clip(np.searchsorted(edges, events, side="right") - 1, 0, max(len(edges) - 2, 0))
    middles = [(np.median(events[groups == g]) + 1, np.median(norms[groups == g])) for g in np.unique(groups)]
    axes.plot(*np.asarray(middles).T, c=COLOURS[3], marker="o", ms=4, label="median by tenth of the items")
    axes.legend(frameon=False, fontsize=9)


def draw_similarity(path: Path, found: PairSimilarity) -> None:
    """How like each other pairs are."""
    with _picture(path, 11, 4.4) as figure:
        left, right = figure.subplots(1, 2)
        _plain(left, "PairSimilarity of two items", "cosine", "density")
        kinds = (("any two", found.any_items), ("of one genre", found.genre_items), ("nearest", found.nearest_items))
        for (name, values), colour in zip(kinds, ("0.35", COLOURS[0], COLOURS[1]), strict=True):
            if len(values):
                left.hist(values, bins=np.linspace(-1, 1, 61).tolist(), density=True, histtype="step", lw=1.8,
                          color=colour, label=name)  # fmt: skip
        left.legend(frameon=False, fontsize=9, loc="upper left")
        _plain(right, "PairSimilarity of two users", "cosine", "density")
        right.hist(found.any_users, bins=np.linspace(-1, 1, 61).tolist(), density=True, color=COLOURS[0])


def draw_groups(path: Path, points: Points, labels: Ids, groups: Sequence[Group], genres: Sequence[str]) -> None:
    """Users by group on a plane, and which genres each group takes more and less of than everybody."""
    with _picture(path, 14, 6) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])
        _bare(left, "Users (first two principal components), by group")
        palette = _palette(len(groups))
        for group in range(len(groups)):
            left.scatter(
                points[labels == group, 0],
                points[labels == group, 1],
                s=6,
                color=palette[group],
                alpha=0.6,
                linewidths=0,
            )
        for group in range(len(groups)):
            middle = np.median(points[labels == group], axis=0)
            left.text(
                *middle, str(group + 1), ha="center", va="center", fontsize=10, weight="bold", color="white",
                bbox={"boxstyle": "circle,pad=0.3", "fc": palette[group], "ec": "white", "lw": 1.2}, zorder=4,
            )  # fmt: skip
        _heat(right, groups, genres)


def _palette(n: int) -> list[str]:
    return [(*COLOURS, "#999933", "#EE7733", "#44AA99", "#882255")[group] for group in range(n)]


def _heat(axes: Axes, groups: Sequence[Group], genres: Sequence[str]) -> None:
    lift = np.asarray([group.genre_lift for group in groups])
    order = np.argsort(-np.nan_to_num(np.abs(np.log(np.maximum(lift, 1e-2)))).max(axis=0), kind="stable")[:18]
    order = np.sort(order)
    shown = np.log(np.clip(np.nan_to_num(lift[:, order], nan=1.0), 1 / STRONGEST_LIFT, STRONGEST_LIFT))
    edge = np.log(STRONGEST_LIFT)
    image = axes.imshow(shown, cmap="RdBu_r", norm=TwoSlopeNorm(0, -edge, edge), aspect="auto")
    axes.set_title("Share of events in a genre, as a multiple of everybody's", loc="left", fontsize=11)
    axes.set_xticks(range(len(order)), [genres[column] for column in order], rotation=45, ha="right", fontsize=9)
    names = [f"{number}: {group.users:,} users" for number, group in enumerate(groups, start=1)]
    axes.set_yticks(range(len(groups)), names, fontsize=9)
    for row, column in np.ndindex(shown.shape):
        dark = abs(shown[row, column]) > 0.62 * edge
        text = f"{lift[row, order[column]]:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "0.15")
    bar = axes.figure.colorbar(image, ax=axes, ticks=np.log([1 / 3, 1 / 2, 1, 2, 3]), shrink=0.85, pad=0.02)
    bar.ax.set_yticklabels(["⅓ ×", "½ ×", "1 ×", "2 ×", "3 ×"])
