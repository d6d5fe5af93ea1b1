#!/usr/bin/env python3
"""Writes the generated parts of the documentation: `python docs/generate.py`, or `--check` to compare only.

A page holds its generated parts between `<!-- generated: NAME -->` and `<!-- end -->`; everything else is written by
hand. The tables come from the code that they describe: protos, typed settings, metrics, the manifest, the id and event
rules; those of quality from the results in `benchmarks/results`. `tests/docs` holds every page to what this script
would write.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from tables import code, protos, quality, settings  # noqa: E402 - found next to this script, wherever it is started from

SECTION = re.compile(r"(<!-- generated: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

SECTIONS: Mapping[str, Callable[[], str]] = {
    "public-services": lambda: protos.services("recommend"),
    "public-messages": lambda: protos.messages("recommend"),
    "shared-messages": lambda: protos.messages("types"),
    "recall-service": lambda: protos.services("recall") + protos.messages("recall"),
    "rank-service": lambda: protos.services("rank") + protos.messages("rank"),
    "errors": code.errors,
    "limits": code.limits,
    "server-settings": settings.server,
    "recall-settings": settings.recall,
    "rank-settings": settings.rank,
    "gateway-settings": settings.gateway,
    "offline-settings": settings.offline,
    "offline-sections": settings.offline_sections,
    "verbs": settings.verbs,
    "metrics": code.metrics,
    "process-metrics": code.process_metrics,
    "metrics-sample": code.metrics_sample,
    "event-types": code.event_types,
    "interaction-columns": code.interaction_columns,
    "item-columns": code.item_columns,
    "datasets": code.datasets,
    "manifest": code.manifest,
    "roles": code.roles,
    "headline": quality.headline,
    "result-pages": quality.result_pages,
    **quality.sections(),
}
"""What each generated part holds, by the name in its marker."""


def fresh(page: str) -> str:
    """`page` with every generated part renewed. Raises KeyError for a part that nothing generates."""

    def replaced(match: re.Match[str]) -> str:
        return f"{match[1]}\n{SECTIONS[match['name']]().strip()}\n\n{match[3]}"

    return SECTION.sub(replaced, page)


def pages() -> list[Path]:
    """Every page, sorted."""
    return sorted(FOLDER.rglob("*.md"))


def unused() -> set[str]:
    """Names of parts that no page holds."""
    held = {match["name"] for page in pages() for match in SECTION.finditer(page.read_text(encoding="utf-8"))}
    return set(SECTIONS) - held


def main() -> int:
    """0, or 1 where `--check` finds a page that is not fresh, or where a part is on no page."""
    parser = argparse.ArgumentParser(description="Writes the generated parts of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page is stale")
    check = parser.parse_args().check
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        wanted = fresh(text)
        if wanted != text:
            stale.append(page.relative_to(FOLDER.parent))
            if not check:
                page.write_text(wanted, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'stale; run `make docs`' if check else 'written'}")
    for name in sorted(unused()):
        print(f"no page holds <!-- generated: {name} -->")
    return 1 if (check and stale) or unused() else 0


if __name__ == "__main__":
    sys.exit(main())
