"""Cells as a table: aligned text for the screen, Markdown for a page. The first line is the head."""

from __future__ import annotations

from collections.abc import Sequence

Cells = Sequence[Sequence[str]]


def aligned(cells: Cells) -> list[str]:
    """The lines, columns padded to their widest cell."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def markdown(cells: Cells) -> str:
    """The lines between bars, and the rule below the head; bars and line breaks in cells are made harmless."""
    lines = [[" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
