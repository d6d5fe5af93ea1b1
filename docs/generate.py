#!/usr/bin/env python3
"""Writes what is generated from the code into docs and docker: `python docs/generate.py`, or `--check` to compare only.

A page holds its generated parts between `<!-- generated: NAME -->` and `<!-- end -->`, a file of docker/ between
`# generated: NAME` and `# end`; everything else is written by hand. What docker/ holds follows from the registry of
channels. The tables come from the code that they describe: protos, typed settings, metrics, the manifest, the id and
event rules; those of quality from the results in `benchmarks/results`. `tests/docs` holds every page to what this
script would write.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import indent

FOLDER = Path(__file__).resolve().parent
DOCKER = FOLDER.parent / "docker"
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

try:
    from tables import code, processes, protos, quality, serving, settings, speed  # found next to this script
except ModuleNotFoundError as missing:
    sys.exit(f"docs/generate.py: {missing.name} is not installed; install the development tools with `make setup-dev`")

SECTION = re.compile(r"(<!-- generated: (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

LINES = re.compile(
    r"(?P<open>^(?P<indent> *)# generated: (?P<name>[a-z0-9-]+)\n).*?(?P<close>^ *# end$)", re.DOTALL | re.MULTILINE
)

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
    "processes": processes.processes,
    "channel-images": processes.images,
    "serving-extras": processes.wheels,
    "channel-services": processes.services,
    "channel-targets": processes.targets,
    "gateway-depends-on": processes.depends_on,
    "scrape-compose": processes.scraped,
    "alert-server-down": processes.server_down,
    "headline": quality.headline,
    "result-pages": quality.result_pages,
    "result-serving": serving.races,
    "result-growth": speed.growth,
    "result-large-logs": speed.large,
    "result-workers": speed.workers,
    "result-faults": speed.faults,
    **quality.sections(),
}
"""What each generated part holds, by the name in its marker."""


def fresh(text: str) -> str:
    """`text` with every generated part renewed. Raises KeyError for a part that nothing generates."""

    def section(match: re.Match[str]) -> str:
        return f"{match[1]}\n{SECTIONS[match['name']]().strip()}\n\n{match[3]}"

    def lines(match: re.Match[str]) -> str:
        return f"{match['open']}{indent(SECTIONS[match['name']](), match['indent'])}\n{match['close']}"

    return LINES.sub(lines, SECTION.sub(section, text))


def pages() -> list[Path]:
    """Every file that may hold generated parts, sorted."""
    docker = [path for path in DOCKER.rglob("*") if path.suffix in (".yaml", ".yml") or path.name == "Dockerfile"]
    return sorted([*FOLDER.rglob("*.md"), *docker])


def unused() -> set[str]:
    """Names of parts that no file holds."""
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    return set(SECTIONS) - {
        match["name"] for text in texts for form in (SECTION, LINES) for match in form.finditer(text)
    }


def main() -> int:
    """0, or 1 where `--check` finds a page that is not fresh, or where a part is on no page."""
    parser = argparse.ArgumentParser(description="Writes the generated parts of docs/ and docker/.")
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
        print(f"no file holds the generated part {name}")
    return 1 if (check and stale) or unused() else 0


if __name__ == "__main__":
    sys.exit(main())
