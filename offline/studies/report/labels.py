"""Labels on a picture that cover neither each other nor the edge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

LONGEST = 30
DISTANCES = (6, 14, 24, 36, 50, 66, 84, 104)
"""Points between an item's point and its label, tried in this order."""
DIRECTIONS = 12


def shortened(title: str, longest: int = LONGEST) -> str:
    """A title in at most `longest` characters."""
    return title if len(title) <= longest else title[: longest - 1].rstrip(" ,.:(") + "…"


def place_labels(axes: Axes, points: NDArray[np.float64], texts: Sequence[str], *, size: float = 7.5) -> int:
    """Writes each text next to its point, in order, and leaves out those without room. Returns how many are written.

    A thin line leads to a label that had to go further off.
    """
    canvas = axes.figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        raise TypeError(f"labels are measured by matplotlib's Agg canvas, found {type(canvas).__name__}")
    canvas.draw()  # type: ignore[no-untyped-call]
    frame, taken = axes.get_window_extent(), [_around(axes, point) for point in points]
    standing = 0
    for point, text in zip(points, texts, strict=True):
        box = _first_free(axes, canvas, point, shortened(text), size=size, frame=frame, taken=taken)
        if box is not None:
            taken.append(box)
            standing += 1
    return standing


def _around(axes: Axes, point: NDArray[np.float64]) -> Bbox:
    """The few pixels that a labelled point itself takes."""
    x, y = axes.transData.transform(point)
    return Bbox.from_extents(x - 3, y - 3, x + 3, y + 3)


def _first_free(
    axes: Axes,
    canvas: FigureCanvasAgg,
    point: NDArray[np.float64],
    text: str,
    *,
    size: float,
    frame: Bbox,
    taken: Sequence[Bbox],
) -> Bbox | None:
    for distance in DISTANCES:
        for turn in np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False):
            label = _label(axes, point, text, (distance * np.cos(turn), distance * np.sin(turn)), size)
            renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer).padded(1.5)  # without the line that leads to it
            inside = frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)
            if inside and not any(box.overlaps(other) for other in taken):
                return box
            label.remove()
    return None


def _label(axes: Axes, point: NDArray[np.float64], text: str, offset: tuple[float, float], size: float) -> Annotation:
    across = "left" if offset[0] > 2 else "right" if offset[0] < -2 else "center"
    along = "bottom" if offset[1] > 2 else "top" if offset[1] < -2 else "center"
    far = np.hypot(*offset) > DISTANCES[0] + 1
    label = axes.annotate(
        text,
        (float(point[0]), float(point[1])),
        offset,
        textcoords="offset points",
        ha=across,
        va=along,
        fontsize=size,
        arrowprops={"arrowstyle": "-", "lw": 0.5, "color": "0.3", "shrinkA": 0, "shrinkB": 1} if far else None,
        zorder=5,
    )
    label.set_parse_math(False)
    label.set_in_layout(False)
    label.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
    return label
