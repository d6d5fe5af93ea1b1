"""A report as Markdown and as HTML: the same sections, once for a repository and once for a browser."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offline.metrics.text_table import markdown

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "img{max-width:100%;border:1px solid #ddd}table{border-collapse:collapse;font-size:.9rem}"
    "td,th{border-bottom:1px solid #ddd;padding:.3rem .6rem;text-align:left;vertical-align:top}"
)


@dataclass(frozen=True)
class ReportSection:
    """A heading with text, a table and a picture below it."""

    title: str
    paragraphs: Sequence[str] = ()
    picture: str = ""
    """Name of a file in the report's folder."""
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def write_page(folder: Path, title: str, sections: Sequence[ReportSection]) -> None:
    """Writes report.md and report.html."""
    (folder / "report.md").write_text("\n".join([f"# {title}", "", *map(_markdown, sections)]), "utf-8")
    body = "\n".join(map(_html, sections))
    page = (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )
    (folder / "report.html").write_text(page, "utf-8")


def _markdown(section: ReportSection) -> str:
    parts = [f"## {section.title}", *section.paragraphs]
    if section.picture:
        parts.append(f"![{section.title}]({section.picture})")
    if section.header:
        parts.append(markdown([section.header, *section.rows]))
    return "\n\n".join(parts) + "\n"


def _html(section: ReportSection) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>", *(f"<p>{html.escape(text)}</p>" for text in section.paragraphs)]
    if section.picture:
        parts.append(f'<img src="{html.escape(section.picture)}" alt="{html.escape(section.title)}">')
    if section.header:
        rows = [_row(section.header, "th"), *(_row(row, "td") for row in section.rows)]
        parts.append(f"<table>{''.join(rows)}</table>")
    return "\n".join(parts)


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
