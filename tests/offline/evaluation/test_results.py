"""The report of an evaluation and a benchmark's note say which ranker validation chose, and by how much it leads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from offline.evaluation.evaluate import RANKED
from offline.evaluation.results import Evaluation
from offline.publish.publish import REPORT_FOLDER
from offline.ranking.rankers.choice import BLEND, RankerChoice
from offline.studies.benchmark.ours import run_ours
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow

CHOICE = RankerChoice(
    BLEND,
    {"lightgbm": 2.0, "network": 0.5},
    {"lightgbm": {"rounds": 3}, "network": {"epochs": 1}},
    "ranked",
    0.2008,
    0.195,
    {"lightgbm": 0.1988, "network": 0.1914, BLEND: 0.2008},
    {},
)
NOTE = "lightgbm + network, validation NDCG@10 0.2008 against 0.1950 blended"
SECTION = f"""## Ranker, chosen on validation

{NOTE} (+0.0058); the ranked order is served.

| ranker | validation NDCG@10 | less the blended order |  |
| --- | --- | --- | --- |
| lightgbm | 0.1988 | +0.0038 |  |
| network | 0.1914 | -0.0036 |  |
| lightgbm + network | 0.2008 | +0.0058 | published |
| blended order | 0.1950 |  |  |

"""


def report_with(choice: RankerChoice | None) -> Evaluation:
    """Of no lists at all."""
    return Evaluation("toys", "all", 7, 60, (), choice)


def test_the_report_names_the_rankers_that_were_tried_and_the_margin() -> None:
    report = report_with(CHOICE)
    assert SECTION in report.markdown()
    assert report.table().splitlines()[-1] == f"ranker: {NOTE} (+0.0058); the ranked order is served"
    fields = json.loads(report.json())["choice"]
    assert fields["rankers"] == CHOICE.rankers
    assert (fields["ranker"], fields["ranked"], fields["blended"]) == (BLEND, 0.2008, 0.195)
    assert fields["margin"] == pytest.approx(0.0058)


def test_a_ranker_that_loses_is_said_to_lose_and_a_lonely_one_stands_alone() -> None:
    worse = replace(CHOICE, ranker="svd", weights={"svd": 1.0}, ranking="blended", ranked=0.1, rankers={"svd": 0.1})
    assert worse.sentence() == (
        "svd, validation NDCG@10 0.1000 against 0.1950 blended (-0.0950); the blended order is served"
    )
    untaught = replace(worse, rankers={}, ranked=0.0)
    assert untaught.sentence() == (
        "no ranker had anything to learn from, validation NDCG@10 0.1950 blended; the blended order is served"
    )


def test_lists_of_another_origin_say_nothing_of_a_choice() -> None:
    report = report_with(None)
    assert "Ranker, chosen" not in report.markdown()
    assert "ranker:" not in report.table()
    assert json.loads(report.json())["choice"] is None


@pytest.fixture(scope="module")
def workflow(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """Two rankers on the shop, both tried."""
    root = tmp_path_factory.mktemp("root")
    arguments = [
        "--dataset", "shop", "--data-dir", str(shop), "--root", str(root), "--serving.channels", "popularity,itemcf",
        "--bootstrap.resamples", "20", "--lightgbm.max-rounds", "10", "--lightgbm.min-leaf-rows", "20",
        "--ranker.candidates", "lightgbm,svd", "--rating.factors", "2", "--blend.max-users", "20",
        "--split.enough-users", "5",
    ]  # fmt: skip
    return Workflow(OfflineConfig.from_arguments(arguments, "test"))


def test_the_bundle_carries_the_choice_in_its_report(workflow: Workflow) -> None:
    choice = RankerChoice.load(workflow.ranking.choice.folder)
    assert set(choice.rankers) == {"lightgbm", "svd", BLEND}
    workflow.publish("evaluation", report=workflow.evaluation("all"))
    store = workflow.config.store("evaluation")
    folder = store.open(store.release().current).folder / REPORT_FOLDER
    assert f"\n{choice.sentence()}.\n\n{choice.table()}\n" in (folder / "all.md").read_text("utf-8")
    found = json.loads((folder / "all.json").read_text("utf-8"))["choice"]
    assert found == {
        **json.loads((workflow.ranking.choice.folder / "choice.json").read_text("utf-8")),
        "margin": choice.margin,
    }


def test_report_and_manifest_name_all_samples(workflow: Workflow) -> None:
    [report] = (json.loads(path.read_text("utf-8")) for path in workflow.evaluation("all").folder.rglob("all.json"))
    version = workflow.publish("production")
    manifest = workflow.config.store("production").open(version).manifest
    windows, blend = "ranker: a sample, the latest 1 of 3 windows before T1", "blend: a sample, 20 of "
    for sampled in (report["sampled"], manifest.sampled):
        assert sampled[0] == windows
        assert [note.startswith(blend) for note in sampled] == [False, True]


def test_the_note_of_the_ranked_row_says_why_it_is_served(workflow: Workflow) -> None:
    choice, targets = RankerChoice.load(workflow.ranking.choice.folder), workflow.test_targets("all")
    notes = {run.system: run.note for run in run_ours(workflow, targets, ["itemcf", "blended", RANKED])}
    served, why = "what validation chose to serve", choice.figures()
    expected = {"ranked": {"blended": "", RANKED: f"{served}; {why}"}, "blended": {"blended": served, RANKED: why}}
    assert notes == {"itemcf": ""} | expected[choice.ranking]
