"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offline.metrics.text_table import markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """One table; line breaks and bars inside cells are made harmless."""
    return markdown([header, *rows]) + "\n"


def quoted(text: object) -> str:
    """`text` as code; nothing for nothing."""
    return f"`{text}`" if str(text) else ""
