"""The site of docs/, built by Sphinx: `make site`. Pages are plain Markdown, read as GitHub reads it (MyST)."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

project = "recsys-serving"
html_title = project
html_theme = "furo"
extensions = ["myst_parser"]
exclude_patterns = ["**/*.py"]
myst_heading_anchors = 4
# Reference pages go from ## to ####; there is no highlighter of csv.
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

_LINE = re.compile(r"^(?:## (?P<section>.+)|- \[[^\]]+\]\((?P<page>[^)#]+)\.md\).*)$", re.MULTILINE)


def add_navigation(app: Sphinx, name: str, source: list[str]) -> None:
    """Appends a hidden table of contents per section to the index, made from its links: pages are listed once."""
    if name != app.config.root_doc:
        return
    sections: dict[str, list[str]] = {project: []}
    for match in _LINE.finditer(source[0]):
        if match["section"]:
            sections[match["section"]] = []
        else:
            sections[list(sections)[-1]].append(match["page"])
    for section, pages in sections.items():
        listed = "\n".join(pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {section}\n\n{listed}\n```\n"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
