"""The pages of results: one per committed result, and a headline that compares with the best peer there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

LONGEST = 120
RESULTS = sorted((ROOT / "benchmarks/results").glob("*.json"))
_ROW = re.compile(
    r"\]\(results/(?P<name>[\w-]+)\.md\) \| [^|]+ \| (?P<system>\w+) (?P<ours>[\d.]+) \| "
    r"(?P<peer>[^|]+) (?P<other>[\d.]+), of \d+ \| (?P<ratio>[\d.]+) \|"
)


@pytest.mark.parametrize("page", ["README.md", "docs/quality.md"])
def test_a_page_for_first_readers_is_short(page: str) -> None:
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_has_its_page_without_rows_that_say_nothing(path: Path) -> None:
    text = (ROOT / "docs/results" / f"{path.stem}.md").read_text(encoding="utf-8")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["command"] in text
    for row in content["rows"]:
        shown = f"| {row['system']} | {row['origin']} | " in text
        assert shown == bool(row["figures"]), row["system"]


def test_the_headline_compares_with_the_best_peer() -> None:
    headline = (ROOT / "docs/quality.md").read_text(encoding="utf-8")
    rows = list(_ROW.finditer(headline))
    compared = set()
    for path in RESULTS:
        content = json.loads(path.read_text(encoding="utf-8"))
        metric = content["metrics"][0]
        figures = {
            (row["origin"], row["system"]): row["figures"][metric]["mean"] for row in content["rows"] if row["figures"]
        }
        peers = [figure for (origin, _), figure in figures.items() if origin == "peer"]
        for row in (row for row in rows if row["name"] == path.stem):
            compared.add(path.stem)
            assert float(row["other"]) >= max(peers) - 5e-5
            assert float(row["ours"]) in {
                round(figure, 4) for (_, system), figure in figures.items() if system == row["system"]
            }
            assert float(row["ratio"]) == pytest.approx(float(row["ours"]) / float(row["other"]), abs=0.0051)
        assert bool(peers) == (path.stem in compared), path.stem
    assert len(rows) == 2 * len(compared) > 0


def test_the_better_of_two_searches_of_a_peer_is_quoted() -> None:
    """EASE's earlier search did better on the test than the longer one after it."""
    rows = _ROW.finditer((ROOT / "docs/quality.md").read_text(encoding="utf-8"))
    quoted = [float(row["other"]) for row in rows if row["name"] == "time-to-split-ml-1m-timed-all"]
    assert quoted
    assert min(quoted) >= 0.2979
