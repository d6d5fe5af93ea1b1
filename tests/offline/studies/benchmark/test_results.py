"""Tables of the bench: what they measure, what was published, and results saved, shown and tracked."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.dataset.splits import Protocol, SplitConfig
from offline.evaluation.results import Figure
from offline.protocols import plan_of
from offline.studies.benchmark.headlines import measured_group, shown_metrics
from offline.studies.benchmark.published import published_rows
from offline.studies.benchmark.report import results_page
from offline.studies.benchmark.results import BenchmarkResult, BenchmarkRow, PairedDifference, measured_systems
from offline.studies.benchmark.runs import absent_peers
from offline.studies.benchmark.table import deciding_differences, text_table
from offline.studies.benchmark.tracking import track_result
from recsys.errors import DataError, DataMalformed
from tests.offline.studies.benchmark.bench import a_result
from tests.offline.tastes import dataset_of_tastes

RESULTS = Path(__file__).resolve().parents[4] / "benchmarks" / "results"


def test_the_group_of_the_published_tables() -> None:
    for protocol, kind, expected in (
        ("temporal", "all", "warm users"),
        ("temporal", "last", "all users"),
        ("leave-one-out", "last", "all users"),
        ("strong-generalisation", "all", "all users"),
    ):
        name: Protocol = protocol  # type: ignore[assignment]
        plan = plan_of(dataset_of_tastes(), SplitConfig(protocol=name))
        known = plan.test.training_view
        targets = plan.test.ask(known.dataset.snapshot(known.cutoff), kind)  # type: ignore[arg-type]
        group, measured = measured_group(plan, kind, targets)  # type: ignore[arg-type]
        assert group == expected
        assert measured.tolist() == (targets.warm if group == "warm users" else np.ones(len(targets), bool)).tolist()
    assert shown_metrics("random-60-20-20", "all")[0] == "precision@10"
    assert shown_metrics("strong-generalisation", "all") == ("normalised_recall@20", "normalised_recall@50", "ndcg@100")


def test_published_rows_are_those_of_the_protocol_and_the_data_set() -> None:
    assert [row.system for row in published_rows("time-to-split", "ml-1m-rebuilt", "last")] == [
        "SASRec+",
        "BERT4Rec",
        "GRU4Rec",
    ]
    assert published_rows("time-to-split", "ml-20m", "last") == []
    (ials,) = [row for row in published_rows("strong-generalisation", "ml-20m", "all") if "iALS" in row.system]
    assert ials.figures is not None
    assert ials.figures["ndcg@100"] == Figure(0.425, 0.425, 0.425)
    assert {row.origin for row in published_rows("leave-one-out", "ml-1m", "last")} == {"published"}
    for row in published_rows("leave-one-out", "ml-1m-timed", "last"):
        assert "complete ML-1M" in row.note or row.origin == "reference"
        assert set(row.figures or {}) <= set(shown_metrics("leave-one-out", "last"))


@pytest.mark.parametrize("dataset", ["ml-20m", "ml-32m"])
def test_published_rows_of_other_cuts_say_so(dataset: str) -> None:
    """`temporal` is cut where its settings say, which is not where others cut."""
    rows = published_rows("temporal", dataset, "all")
    assert rows
    assert all(f"{dataset.upper()}, not our cuts: " in row.note for row in rows)


def test_the_marks_to_reach_stand_beside_ours_and_say_what_they_are() -> None:
    """Of quality-protocols: runs made once by hand, on these very rows."""

    def figures(protocol: str, dataset: str, kind: str, system: str) -> tuple[str, dict[str, float], str]:
        (row,) = [row for row in published_rows(protocol, dataset, kind) if row.system == system]
        assert row.figures is not None
        return row.origin, {metric: figure.mean for metric, figure in row.figures.items()}, row.note

    origin, popular, _ = figures("time-to-split", "ml-1m-rebuilt", "all", "popularity, last 30 days")
    assert (origin, popular["ndcg@10"], popular["hit_rate@10"]) == ("reference", 0.2736, 0.7280)
    _, trees, note = figures("time-to-split", "ml-1m-rebuilt", "all", "LightGBM on five channels, 100 rounds")
    assert trees["ndcg@10"] == 0.327
    assert "settings seen on the test" in note
    assert not any(row.origin == "reference" for row in published_rows("time-to-split", "ml-1m-timed", "all"))
    _, sasrec, note = figures("leave-one-out", "ml-1m-timed", "last", "SASRec (RecTools 0.19)")
    assert sasrec == {"hit_rate@10": 0.2800, "ndcg@10": 0.1661}
    assert "48 minutes on 2 cores" in note
    assert figures("temporal", "ml-32m", "all", "EASE")[1]["ndcg@10"] == 0.1594


def test_a_result_is_read_as_it_was_saved_and_shown_whole(tmp_path: Path) -> None:
    result = a_result()
    path = result.save(tmp_path)
    assert path.name == "leave-one-out-tastes-last.json"
    assert BenchmarkResult.load(path) == result
    page, table = results_page(tmp_path), text_table(result)
    assert "ranked - ease (toy 1) = +0.2000 [+0.1000, +0.3000], 3.00 times, paired over users: better" in table
    assert "| NDCG@10 | ranked | ease (toy 1) | +0.2000 [+0.1000, +0.3000] | 3.00 | better |" in page
    for text in (page, table):
        for part in ("0.3000 [0.2500, 0.3500]", "0.2000", "a paper", "needs 7 CPU-hours", "imputed times"):
            assert part in text
        few = "fewer than 300 users: differences between systems are noise"
        assert text.count(few) == 2, "of the table and of the group beneath it"
        below = text[text.index(f"29 cold users, 31 requests ({few}):") :]
        assert "0.0200 [0.0100, 0.0300]" in below
        assert "0.3000 [0.2500, 0.3500]" not in below
    assert "2 cores of toy, 8.0 GiB" in page
    assert "python -m offline benchmark" in page
    many = text_table(replace(result, users=300, apart=(replace(result.apart[0], users=300),)))
    assert "fewer than" not in many
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0}))
    with pytest.raises(DataMalformed, match="format 0, expected 1"):
        BenchmarkResult.load(path)
    assert results_page(tmp_path / "none").startswith("No benchmark was run yet")


def test_a_page_shows_the_differences_that_decide_and_the_screen_all() -> None:
    """Of the first two metrics: `ranked` and the best channel against the best peer, and against each other."""
    figures = {"ndcg@10": Figure(0.2, 0.1, 0.3)}
    channels = [BenchmarkRow(name, "channel", figures) for name in ("als", "itemcf")]
    pairs = [("als", "ease (toy 1)"), ("itemcf", "ease (toy 1)"), ("ranked", "itemcf"), ("ranked", "blended")]
    result = a_result()
    found = [
        *result.differences,
        *(PairedDifference(ours, other, "ndcg@10", 0.1, 0.0, 0.2) for ours, other in pairs),
        PairedDifference("ranked", "ease (toy 1)", "recall@10", 0.1, 0.0, 0.2),
    ]
    result = replace(result, rows=(*result.rows, *channels), differences=tuple(found), metrics=("ndcg@10",))
    assert [difference.pair for difference in deciding_differences(result)] == [
        ("ranked", "ease (toy 1)"),
        ("itemcf", "ease (toy 1)"),
        ("ranked", "itemcf"),
    ]


def test_a_row_says_when_it_overran_the_budget_and_the_page_claims_no_equal_one(tmp_path: Path) -> None:
    result = a_result()
    result.save(tmp_path)
    assert "over the budget" not in text_table(result) + results_page(tmp_path)
    assert "at most 60 CPU-minutes per model, tuning included" in results_page(tmp_path)
    replace(result, budget_minutes=1.5).save(tmp_path)
    page = results_page(tmp_path)
    assert "| served; over the budget: 1.6 of 1.5 CPU-minutes |" in page
    assert "budget 1.5 CPU-minutes per model, tuning included, which the rows with that note overran" in page
    assert "at most" not in page


def test_a_result_is_not_saved_over_one_that_has_more(tmp_path: Path) -> None:
    """What others published is quoted again, and what was not run has nothing to lose."""
    result = a_result()
    path = result.save(tmp_path)
    by_name = {row.system: row for row in result.rows}
    ours, peer, absent = by_name["ranked"], by_name["ease (toy 1)"], by_name["hstu"]
    for rows in ((ours,), (ours, replace(peer, figures=None)), (ours, replace(peer, origin="channel"))):
        with pytest.raises(DataError, match=r"ease \(peer\); run all of its systems in one command") as refused:
            replace(result, rows=rows, differences=()).save(tmp_path)
        assert str(path) in str(refused.value)
        assert "--results" in str(refused.value)
    assert BenchmarkResult.load(path) == result
    later = replace(result, rows=(ours, replace(peer, system="ease (toy 2)"), replace(ours, system="blended")))
    assert BenchmarkResult.load(later.save(tmp_path)) == later
    path.write_text("{}")
    assert BenchmarkResult.load(replace(result, rows=(absent,)).save(tmp_path)).rows == (absent,)


def test_committed_results_have_their_own_names() -> None:
    """A file whose name is longer than its result's has other systems than the result of that name."""
    paths = sorted(RESULTS.glob("*.json"))
    assert paths
    for path in paths:
        result = BenchmarkResult.load(path)
        if path.stem == result.name:
            continue
        assert path.stem.startswith(f"{result.name}-"), path
        assert result.remarks, path
        usual = BenchmarkResult.load(path.with_stem(result.name))
        assert not measured_systems(result.rows) & measured_systems(usual.rows), path


def test_peers_that_were_left_out_say_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "hstu.json").write_text(json.dumps({"cpu_seconds": 1672.6}))
    rows = absent_peers("leave-one-out", ["ease", "sasrec"], tmp_path)
    assert [(row.system, row.origin, row.figures, row.note) for row in rows] == [
        ("popularity", "peer", None, "not run: not asked for"),
        ("bert4rec", "peer", None, "not run: not asked for"),
        ("hstu", "peer", None, "not run: not asked for; an earlier run took 1,673 CPU-seconds"),
    ]
    assert absent_peers("leave-one-out", [], tmp_path) == [], "a command without peers compares with none"
    assert absent_peers("random-60-20-20", ["popularity", "ials", "ease"], tmp_path) == []


def test_tracking_is_optional(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without an address nothing is tried; with one, but without MLflow, the result stands and a warning is logged."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    track_result("", a_result())
    assert not caplog.messages
    track_result("sqlite:///never-made.db", a_result())
    assert "MLflow is not installed" in caplog.messages[0]
