"""Links, anchors, and the files and folders that pages name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, prose

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(
    r"`((?:recsys|gateway|recall_server|rank_server|offline|protos|docker|tests|docs|benchmarks)/[\w./-]*|\w+\.toml)`"
)
MADE_BY_THE_READER = {"offline/newest.py", "recall_server/channels/newest.py", "gateway.toml"}
"""Files of the worked examples."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in _LINK.findall(prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(_PATH.findall(prose(page))) - MADE_BY_THE_READER
    assert {path for path in named if not (ROOT / path).exists() and not list(ROOT.glob(f"{path}*"))} == set()


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs/index.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(prose(index))}
    assert {page for page in PAGES if page.is_relative_to(index.parent)} - linked == {index}
