"""The bench on a small world: rows for peers, lists of peers, one table, and a search that goes on where it stopped."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from numpy.typing import NDArray

from offline.benchmark import peers as peers_module
from offline.benchmark.command import command_of
from offline.benchmark.config import BenchmarkConfig, TuneConfig
from offline.benchmark.costs import cost_of
from offline.benchmark.differences import differences
from offline.benchmark.headlines import measured_group, shown_metrics
from offline.benchmark.peers import ORIGIN_FILE, ListsOrigin, PeerPlace, read_lists, run_peer
from offline.benchmark.published import published_rows
from offline.benchmark.report import results_page
from offline.benchmark.results import BenchmarkResult, BenchmarkRow, Difference, GroupRows
from offline.benchmark.rows import DIGEST_FILE, export_rows
from offline.benchmark.runs import chosen_models
from offline.benchmark.spaces import SPACES, Whole, overridden, present
from offline.benchmark.table import text_table
from offline.benchmark.tracking import track_result
from offline.benchmark.tuning import Tuned, search, toml_of
from offline.cli import main
from offline.config import OfflineConfig
from offline.cost import Meter
from offline.evaluate import BootstrapConfig
from offline.evaluation import Figure
from offline.metrics import NO_ITEM
from offline.protocols import Plan, plan_of
from offline.splits import Protocol, SplitConfig
from offline.steps import Step, Workspace
from offline.targets import Targets
from offline.workflow import Workflow
from recsys.errors import CannotStart, ContractBroken, DataError, DataMalformed
from tests.offline.tastes import DAY, DAYS, ITEMS, USERS, dataset_of_tastes

PEER = """
import argparse, json, pathlib
import pyarrow.parquet as pq, pyarrow as pa, numpy as np
parser = argparse.ArgumentParser()
for name in ("rows", "model", "out", "budget-minutes", "settings"):
    parser.add_argument("--" + name)
given = parser.parse_args()
rows, out = pathlib.Path(given.rows), pathlib.Path(given.out)
if given.model == "cosine":
    raise SystemExit("cosine is out of memory")
items = pq.read_table(rows / "catalogue.parquet")["item_id"].to_numpy()
queries = pq.read_table(rows / "test_queries.parquet")
histories = pq.read_table(rows / "test_histories.parquet")
owners, seen = histories["request"].to_numpy(), histories["item_id"].to_numpy()
lists = []
for request in queries["request"].to_pylist():
    kept = items[~np.isin(items, seen[owners == request])][:20]
    lists += [(request, place, int(item), -float(place)) for place, item in enumerate(kept, start=1)]
columns = list(zip(*lists))
pq.write_table(pa.table({"request": columns[0], "rank": pa.array(columns[1], pa.int32()), "item_id": columns[2],
    "score": pa.array(columns[3], pa.float32())}), out / "lists.parquet")
run = {"model": given.model, "package": "toy", "version": "1.2", "settings": {"k": 7}, "cpu_seconds": 5.0,
    "trials": [] if given.settings else [{"settings": {"k": 7}, "metric": 0.1, "cpu_seconds": 4.0}],
    "peak_memory_bytes": 1 << 20, "finished": True, "note": "settings given" if given.settings else ""}
(out / "run.json").write_text(json.dumps(run))
"""
"""A peer that lists items in order of their ids."""


@pytest.fixture
def leave_one_out() -> tuple[Plan, Targets]:
    plan = plan_of(dataset_of_tastes(), SplitConfig(protocol="leave-one-out"))
    known = plan.test.knowledge
    return plan, plan.test.ask(known.dataset.snapshot(known.cutoff), "last")


def exported(plan: Plan, targets: Targets, folder: Path, *, seed: int = 1) -> str:
    return export_rows(plan, targets, folder, dataset="tastes", kind="last", metric="ndcg@10", seed=seed)


# Rows


def test_rows_are_what_the_contract_says(leave_one_out: tuple[Plan, Targets], tmp_path: Path) -> None:
    plan, targets = leave_one_out
    exported(plan, targets, tmp_path)
    tables = {path.stem: pq.read_table(path) for path in tmp_path.glob("*.parquet")}
    events = {"user_id": "int64", "item_id": "int64", "timestamp": "int64", "value": "float"}
    queries = {"request": "int64", "user_id": "int64", "as_of": "int64"}
    histories = {"request": "int64", "item_id": "int64", "timestamp": "int64", "value": "float"}
    assert {
        name: dict(zip(table.column_names, map(str, table.schema.types), strict=True)) for name, table in tables.items()
    } == {
        "fit": events,
        "refit": events,
        "validation_queries": queries,
        "test_queries": queries,
        "validation_histories": histories,
        "test_histories": histories,
        "validation_relevant": {"request": "int64", "item_id": "int64"},
        "catalogue": {"item_id": "int64"},
    }
    fit, refit = (tables[name] for name in ("fit", "refit"))
    assert refit.num_rows - fit.num_rows == tables["validation_relevant"].num_rows == len(targets)
    assert tables["test_queries"]["as_of"].to_pylist() == [request.as_of for request in targets.requests]
    own = tables["test_histories"].filter(pa.compute.equal(tables["test_histories"]["request"], 3))
    assert own["item_id"].to_pylist() == targets.requests[3].history.item_ids.tolist()
    assert json.loads((tmp_path / "facts.json").read_text()) == {
        "protocol": "leave-one-out",
        "dataset": "tastes",
        "targets": "last",
        "metric": "ndcg@10",
        "list_length": 100,
        "seed": 1,
    }


def test_what_the_test_should_find_is_in_no_file(leave_one_out: tuple[Plan, Targets], tmp_path: Path) -> None:
    plan, targets = leave_one_out
    exported(plan, targets, tmp_path)
    wanted = set(zip(targets.user_ids.tolist(), targets.relevant.item_ids.tolist(), strict=True))
    for name in ("fit", "refit"):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert not set(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)) & wanted
    assert not (tmp_path / "test_relevant.parquet").exists()


def test_equal_rows_have_an_equal_digest(leave_one_out: tuple[Plan, Targets], tmp_path: Path) -> None:
    digests = [exported(*leave_one_out, tmp_path / str(seed), seed=seed) for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    assert (tmp_path / "2" / DIGEST_FILE).read_text().strip() == digests[2]


# Peers


@pytest.fixture
def place(leave_one_out: tuple[Plan, Targets], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PeerPlace:
    exported(*leave_one_out, tmp_path / "rows")
    (tmp_path / "run.py").write_text(PEER)
    monkeypatch.setattr(peers_module, "PROGRAM", tmp_path / "run.py")
    return PeerPlace(Path(sys.executable), tmp_path / "rows", tmp_path / "out", tmp_path / "settings", 1.0)


CATALOGUE = np.arange(1, ITEMS + 1, dtype=np.int64)


def test_a_peer_runs_once_on_the_same_rows_and_its_choice_is_recorded(
    leave_one_out: tuple[Plan, Targets], place: PeerPlace
) -> None:
    _, targets = leave_one_out
    first = run_peer("ease", place, targets, CATALOGUE)
    assert first.lists is not None
    request = targets.requests[5]
    unseen = CATALOGUE[~np.isin(CATALOGUE, request.history.item_ids)][:20]
    assert first.lists.item_ids[5][:20].tolist() == unseen.tolist()
    assert (first.lists.item_ids[5][20:] == NO_ITEM).all()
    record = json.loads((place.settings / "ease.json").read_text())
    assert (record["settings"], len(record["trials"])) == ({"k": 7}, 1)
    (place.out / "ease" / "run.json").write_text(json.dumps({**first.facts, "note": "from before"}))
    assert run_peer("ease", place, targets, CATALOGUE).note == "from before"
    (place.rows / DIGEST_FILE).write_text("other rows\n")
    again = run_peer("ease", place, targets, CATALOGUE)
    assert again.note == "settings given", "what was tuned once is not tuned again"
    assert again.facts["cpu_seconds"] == 10.0, "the tuning counts all the same"
    assert run_peer("ease", place, targets, CATALOGUE).facts["cpu_seconds"] == 10.0, "also where lists are taken over"


def test_a_larger_budget_tunes_anew_and_a_smaller_one_says_what_it_took_over(
    leave_one_out: tuple[Plan, Targets], place: PeerPlace
) -> None:
    _, targets = leave_one_out

    def run(minutes: float) -> tuple[str, float]:
        found = run_peer("ease", replace(place, budget_minutes=minutes), targets, CATALOGUE)
        assert found.lists is not None
        return found.note, json.loads((place.settings / "ease.json").read_text())["budget_minutes"]

    assert run(1.5) == ("", 1.5)
    assert run(40.0) == ("", 40.0), "neither lists nor settings of a smaller budget are taken over"
    assert run(10.0) == ("tuned within 40 CPU-minutes", 40.0)
    (place.rows / DIGEST_FILE).write_text("other rows\n")
    assert run(10.0) == ("settings given; tuned within 40 CPU-minutes", 40.0)


def test_what_a_search_said_of_itself_stays_with_its_settings(
    leave_one_out: tuple[Plan, Targets], place: PeerPlace
) -> None:
    """A training that the budget ended is no better for being repeated with the same settings."""
    _, targets = leave_one_out
    run_peer("ease", place, targets, CATALOGUE)
    record = json.loads((place.settings / "ease.json").read_text())
    assert record["note"] == ""
    record["note"] = "stopped by the budget; settings given"
    (place.settings / "ease.json").write_text(json.dumps(record))
    (place.rows / DIGEST_FILE).write_text("other rows\n")
    assert run_peer("ease", place, targets, CATALOGUE).note == "settings given; stopped by the budget"


def test_neither_lists_nor_records_of_an_unknown_budget_are_taken_over(
    leave_one_out: tuple[Plan, Targets], place: PeerPlace
) -> None:
    _, targets = leave_one_out
    run_peer("ease", place, targets, CATALOGUE)
    (place.out / "ease" / ORIGIN_FILE).unlink()
    record = json.loads((place.settings / "ease.json").read_text())
    del record["budget_minutes"]
    (place.settings / "ease.json").write_text(json.dumps(record))
    assert run_peer("ease", place, targets, CATALOGUE).note == ""
    assert json.loads((place.settings / "ease.json").read_text())["budget_minutes"] == 1.0


def test_without_their_environment_peers_are_not_run(leave_one_out: tuple[Plan, Targets], place: PeerPlace) -> None:
    absent = replace(place, python=place.out / "absent")
    found = run_peer("ease", absent, leave_one_out[1], CATALOGUE)
    assert (found.lists, found.note) == (None, "not run: make peers")


def test_a_peer_that_fails_says_why(leave_one_out: tuple[Plan, Targets], place: PeerPlace) -> None:
    found = run_peer("cosine", place, leave_one_out[1], CATALOGUE)
    assert (found.lists, found.note) == (None, "not run: exit code 1, cosine is out of memory")


def test_a_peer_that_did_not_fit_the_budget_says_what_it_needs(
    leave_one_out: tuple[Plan, Targets], place: PeerPlace
) -> None:
    (out := place.out / "hstu").mkdir(parents=True)
    origin = ListsOrigin((place.rows / DIGEST_FILE).read_text(), place.budget_minutes, 0.0)
    (out / ORIGIN_FILE).write_text(json.dumps(asdict(origin)))
    (out / "run.json").write_text(json.dumps({"finished": False, "note": "needs 7 CPU-hours"}))
    found = run_peer("hstu", place, leave_one_out[1], CATALOGUE)
    assert (found.lists, found.note) == (None, "not run: needs 7 CPU-hours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"request": [0, 999]}, "requests must be 0 to"),
        ({"rank": [0, 1]}, "ranks count from 1"),
        ({"rank": [1, 1]}, "a place is given twice"),
        ({"item_id": [10_000, 1]}, "item 10000 is not in the catalogue"),
        ({"item_id": [-5, -5]}, "lists an item twice, or one that was seen"),
    ],
)
def test_lists_that_break_the_contract_are_refused(
    leave_one_out: tuple[Plan, Targets], tmp_path: Path, change: dict[str, list[int]], message: str
) -> None:
    _, targets = leave_one_out
    unseen = CATALOGUE[~np.isin(CATALOGUE, targets.requests[0].history.item_ids)][:2].tolist()
    columns = {"request": [0, 0], "rank": [1, 2], "item_id": unseen, "score": [2.0, 1.0], **change}
    if change.get("item_id") == [-5, -5]:
        columns["item_id"] = [int(targets.requests[0].history.item_ids[0]), unseen[1]]
    pq.write_table(pa.table(columns), tmp_path / "lists.parquet")
    with pytest.raises(ContractBroken, match=message):
        read_lists(tmp_path / "lists.parquet", targets, CATALOGUE)


# What is measured and shown


def test_the_group_of_the_published_tables() -> None:
    for protocol, kind, expected in (
        ("temporal", "all", "warm users"),
        ("temporal", "last", "all users"),
        ("leave-one-out", "last", "all users"),
        ("strong-generalisation", "all", "all users"),
    ):
        name: Protocol = protocol  # type: ignore[assignment]
        plan = plan_of(dataset_of_tastes(), SplitConfig(protocol=name))
        known = plan.test.knowledge
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
        assert row.note
        assert set(row.figures or {}) <= set(shown_metrics("leave-one-out", "last"))


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


def a_result() -> BenchmarkResult:
    newcomers = BenchmarkRow("ranked", "ours", {"ndcg@10": Figure(0.02, 0.01, 0.03)}, 0.1, 0.7)
    cold = GroupRows("cold users", 29, 31, (newcomers,))
    rows = (
        BenchmarkRow("Famous", "published", {"ndcg@10": Figure(0.2, 0.2, 0.2)}, note="a paper"),
        BenchmarkRow("ease (toy 1)", "peer", {"ndcg@10": Figure(0.1, 0.05, 0.15)}, 0.5, 0.9, 12.0, 1 << 20),
        BenchmarkRow("hstu", "peer", note="not run: needs 7 CPU-hours"),
        BenchmarkRow("ranked", "ours", {"ndcg@10": Figure(0.3, 0.25, 0.35)}, 0.4, 0.8, 99.0, 2 << 20, "served"),
    )
    return BenchmarkResult(
        "leave-one-out", "tastes", "last", "all users", ("ndcg@10",), 160, 160, 60, "python -m offline benchmark",
        "2026-01-02", 60.0, {"cpu": "toy", "cores": 2, "memory_gib": 8.0, "system": "x"}, {"python": "3.11"}, rows,
        (Difference("ranked", "ease (toy 1)", "ndcg@10", 0.2, 0.1, 0.3),), ("imputed times",), apart=(cold,),
    )  # fmt: skip


def test_a_result_is_read_as_it_was_saved_and_shown_whole(tmp_path: Path) -> None:
    result = a_result()
    path = result.save(tmp_path)
    assert path.name == "leave-one-out-tastes-last.json"
    assert BenchmarkResult.load(path) == result
    page, table = results_page(tmp_path), text_table(result)
    for text in (page, table):
        for part in ("0.3000 [0.2500, 0.3500]", "0.2000", "a paper", "not run: needs 7 CPU-hours", "imputed times"):
            assert part in text
        assert "ranked - ease (toy 1) = +0.2000 [+0.1000, +0.3000], 3.00 times, paired over users: better" in text
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


def test_a_row_says_when_it_overran_the_budget_and_the_page_claims_no_equal_one(tmp_path: Path) -> None:
    result = a_result()
    result.save(tmp_path)
    assert "over the budget" not in text_table(result) + results_page(tmp_path)
    assert "at most 60 CPU-minutes per model, tuning included" in results_page(tmp_path)
    replace(result, budget_minutes=1.5).save(tmp_path)
    page = results_page(tmp_path)
    assert "| served; over the budget: 1.6 of 1.5 CPU-minutes |" in page
    assert "budget 1.5 CPU-minutes per model, tuning included, which the rows that say so overran" in page
    assert "at most" not in page


def test_the_verdict_is_that_of_the_interval() -> None:
    difference = a_result().differences[0]
    assert difference.verdict == "better"
    assert replace(difference, low=-0.1).verdict == "no difference shown"
    assert replace(difference, low=-0.2, high=-0.1).verdict == "worse"


def test_ranking_is_held_against_our_best_channel_and_the_blend_and_all_of_ours_against_the_best_peer() -> None:
    """By each figure: the best channel and the best peer of one are not those of the other."""
    own = {name: np.tile(row, (4, 1)) for name, row in (("itemcf", [0.1, 0.6]), ("vector", [0.3, 0.2]))}
    own |= {name: np.tile(row, (4, 1)) for name, row in (("blended", [0.4, 0.5]), ("ranked", [0.5, 0.5]))}
    theirs = {"ease": np.tile([0.2, 0.0], (4, 1)), "bm25": np.tile([0.0, 0.9], (4, 1))}
    found = differences(own, theirs, ("ndcg@10", "recall@10"), np.arange(4), BootstrapConfig(resamples=3))
    by_metric = {metric: [pair.pair for pair in found if pair.metric == metric] for metric in ("ndcg@10", "recall@10")}
    assert by_metric["ndcg@10"] == [
        *((system, "ease") for system in own),
        ("ranked", "vector"),
        ("ranked", "blended"),
    ]
    assert by_metric["recall@10"] == [
        *((system, "bm25") for system in own),
        ("ranked", "itemcf"),
        ("ranked", "blended"),
    ]
    assert [round(pair.mean, 6) for pair in found[-2:]] == [-0.1, 0.0]
    del own["ranked"]
    assert differences(own, {}, ("ndcg@10",), np.arange(4), BootstrapConfig(resamples=3)) == []


def test_tracking_is_optional(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Without an address nothing is even tried; with one, but without MLflow, the result stands and people are told."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    track_result("", a_result())
    assert not caplog.messages
    track_result("sqlite:///never-made.db", a_result())
    assert "MLflow is not installed" in caplog.messages[0]


# Costs


def test_a_meter_counts_cpu_time_and_the_peak_also_where_meters_nest() -> None:
    with Meter() as outer:
        held = np.ones(30 << 20, np.uint8)
        del held
        with Meter() as inner:
            sum(range(400_000))
    assert outer.cost.cpu_seconds >= inner.cost.cpu_seconds > 0
    assert outer.cost.peak_memory_bytes >= inner.cost.peak_memory_bytes > 1 << 20


def test_a_step_costs_what_it_and_its_inputs_cost_each_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")

    def make(name: str, seconds: float, inputs: list[Step]) -> Step:
        step = workspace.run(name, lambda folder: (folder / "x").write_text(name), inputs=inputs)
        receipt = json.loads((step.folder / "step.json").read_text())
        assert set(receipt) >= {"cpu_seconds", "peak_memory_bytes"}
        receipt |= {"cpu_seconds": seconds, "peak_memory_bytes": int(seconds)}
        (step.folder / "step.json").write_text(json.dumps(receipt))
        return step

    shared = make("catalogue", 1.0, [])
    one, other = make("itemcf", 10.0, [shared]), make("als", 100.0, [shared])
    last = make("ranker", 1_000.0, [one, other])
    assert cost_of([one]).cpu_seconds == 11.0
    assert (cost_of([last]).cpu_seconds, cost_of([last]).peak_memory_bytes) == (1_111.0, 1_000)
    workspace.release()


def test_towers_cost_what_the_cutoffs_cost_that_they_continue_from(tmp_path: Path) -> None:
    """The towers of T2 go on from those of T1, these from a window's. Another channel of T1 costs them nothing, nor do
    the tables; each catalogue counts once."""
    workspace = Workspace(tmp_path / "work")

    def make(name: str, seconds: float, inputs: list[Step], cutoff: int = 0) -> Step:
        step = workspace.run(name, lambda folder: None, inputs=inputs, facts=cutoff)
        receipt = json.loads((step.folder / "step.json").read_text())
        receipt |= {"cpu_seconds": seconds, "peak_memory_bytes": 1}
        (step.folder / "step.json").write_text(json.dumps(receipt))
        return step

    tables = make("tables", 10_000.0, [])
    first, second, third = (make("catalogue", 1.0, [tables], cutoff) for cutoff in (1, 2, 3))
    window = make("two-tower", 100.0, [first])
    make("itemcf", 1_000.0, [second])
    continued = make("two-tower", 20.0, [second, window])
    towers = make("two-tower", 30.0, [third, continued])
    assert cost_of([window]).cpu_seconds == 101.0
    assert cost_of([towers]).cpu_seconds == 3 * 1.0 + 100.0 + 20.0 + 30.0
    assert cost_of([towers, continued]).cpu_seconds == cost_of([towers]).cpu_seconds
    workspace.release()


# Configuration


def test_the_protocol_is_said_once(tmp_path: Path) -> None:
    config = BenchmarkConfig.from_arguments(
        ["--protocol", "leave-one-out", "--split.judging-share", "0.3", "--data-dir", "some/ml-1m-timed"], "test"
    )
    assert (config.split.protocol, config.split.judging_share) == ("leave-one-out", 0.3)
    assert (config.label, config.place) == ("ml-1m-timed", "leave-one-out-ml-1m-timed")
    assert command_of(config.model_copy(update={"remark": "times imputed"})) == (
        "python -m offline benchmark --protocol leave-one-out --dataset demo --data-dir path/to/ml-1m-timed "
        "--split.judging-share 0.3 --remark 'times imputed'"
    )
    last = BenchmarkConfig.from_arguments(["--targets", "last", "--settings", str(tmp_path)], "test")
    assert (last.split.protocol, last.split.labels, last.place) == ("time-to-split", "last", "time-to-split-demo-last")


def test_chosen_settings_go_before_defaults_and_behind_flags(tmp_path: Path) -> None:
    folder = tmp_path / "leave-one-out-shop"
    folder.mkdir()
    (folder / "itemcf.toml").write_text(toml_of({"itemcf.reg": 77.0, "itemcf.n_neighbours": 30}))
    common = ["--protocol", "leave-one-out", "--dataset", "shop", "--settings", str(tmp_path)]
    config = BenchmarkConfig.from_arguments([*common, "--itemcf.n-neighbours", "40"], "test")
    assert (config.itemcf.reg, config.itemcf.n_neighbours) == (77.0, 40)
    other = BenchmarkConfig.from_arguments([*common, "--protocol", "random-60-20-20"], "test")
    assert other.itemcf.reg == OfflineConfig.from_arguments([], "test").itemcf.reg


def test_a_search_leaves_what_people_chose_alone_and_goes_before_it(tmp_path: Path) -> None:
    """Sections of the same name are joined key by key, also with those of the data set's preset."""
    common = ["--protocol", "time-to-split", "--dataset", "demo", "--settings", str(tmp_path)]
    config = TuneConfig.from_arguments(common, "test")
    by_hand = "[itemcf]\nreg = 5.0\nhalf_life_days = 30.0\n\n[lightgbm]\nleaves = 5\n"
    (tmp_path / config.place).mkdir()
    (tmp_path / config.place / "base.toml").write_text(by_hand)
    Tuned("itemcf", "ndcg@10", {"itemcf.reg": 77.0}, 0.1, 3.0, []).save(tmp_path / config.place)
    assert (tmp_path / config.place / "base.toml").read_text() == by_hand
    found = BenchmarkConfig.from_arguments(common, "test")
    assert (found.itemcf.reg, found.itemcf.half_life_days) == (77.0, 30.0)
    assert (found.lightgbm.leaves, found.lightgbm.max_rounds) == (5, config.lightgbm.max_rounds)
    assert config.lightgbm.max_rounds != OfflineConfig().lightgbm.max_rounds


def test_models_are_chosen_by_name() -> None:
    ours = ("popularity", "itemcf", "blended", "ranked")
    config = BenchmarkConfig.from_arguments(["--models", "itemcf,ease,peer:popularity"], "test")
    assert chosen_models(config, ours) == (["ease", "popularity"], ["itemcf"])
    with pytest.raises(CannotStart, match="no model 'vasp'; peers are"):
        chosen_models(config.model_copy(update={"models": ("vasp",)}), ours)


@pytest.mark.parametrize("model", SPACES)
def test_every_search_starts_from_what_is_configured(model: str) -> None:
    config = OfflineConfig.from_arguments(["--dataset", "shop"], "test")
    start = present(SPACES[model], config)
    assert set(start) == set(SPACES[model]), "a default outside of its space is never tried"
    assert overridden(config, start) == config


# Tuning


def test_a_search_finds_the_best_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "itemcf", {"itemcf.n_neighbours": Whole(1, 400)})  # type: ignore[misc]
    arguments = ["--root", str(tmp_path), "--dataset", "shop", "--max-trials", "3", "--settings", str(tmp_path / "s")]
    config = TuneConfig.from_arguments(arguments, "test")
    tried: list[int] = []

    def objective(settings: dict[str, object]) -> float:
        tried.append(int(str(settings["itemcf.n_neighbours"])))
        return -abs(tried[-1] - 100) + 0.0 * sum(range(200_000))

    first = search(config, "itemcf", objective)
    assert tried[0] == config.itemcf.n_neighbours, "the present settings are a trial"
    assert len(tried) == len(first.trials) == 3
    assert first.settings["itemcf.n_neighbours"] == min(tried, key=lambda value: abs(value - 100))
    search(config.model_copy(update={"max_trials": 4}), "itemcf", objective)
    assert len(tried) == 4
    spent = search(config.model_copy(update={"max_trials": 99, "budget_minutes": 1e-9}), "itemcf", objective)
    assert len(tried) == 4, "the CPU time of earlier runs counts"
    spent.save(tmp_path / "s" / config.place)
    table = json.loads((tmp_path / "s" / config.place / "itemcf.json").read_text())
    assert [trial["settings"]["itemcf.n_neighbours"] for trial in table["trials"]] == tried
    assert TuneConfig.from_arguments(arguments, "test").itemcf.n_neighbours == spent.settings["itemcf.n_neighbours"]


# The command, on a small cut


NEWCOMERS = 6
"""Users whose five events are all in the last three days."""
LONELY_USER, LONELY_ITEM = 900, 61


@dataclass(frozen=True)
class Log:
    """The columns of the interactions, in order of time."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]
    ratings: NDArray[np.float64]

    def take(self, kept: NDArray[np.bool_]) -> Log:
        return Log(self.users[kept], self.items[kept], self.times[kept], self.ratings[kept])


def log_of_the_shop() -> Log:
    """The tastes, newcomers, and one user with a single event on an item that nobody else has."""
    events, rng = dataset_of_tastes().interactions, np.random.default_rng(3)
    ratings = np.where(events.values > 1, 4.0, 3.0)
    newcomers = np.repeat(USERS + 1 + np.arange(NEWCOMERS), 5)
    chosen = np.concatenate([rng.choice(ITEMS, 5, replace=False) + 1 for _ in range(NEWCOMERS)])
    late = rng.integers((DAYS - 3) * DAY, DAYS * DAY, len(newcomers))
    users = np.concatenate([events.user_ids, newcomers, [LONELY_USER]])
    items = np.concatenate([events.item_ids, chosen, [LONELY_ITEM]])
    times = np.concatenate([events.timestamps, late, [1]])
    order = np.argsort(times, kind="stable")
    ratings = np.concatenate([ratings, np.full(len(newcomers), 4.0), [4.0]])
    return Log(users[order], items[order], times[order], ratings[order])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log as a user's own interactions."""
    folder, log = tmp_path_factory.mktemp("shop"), log_of_the_shop()
    with (folder / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("user", "item", "timestamp", "rating"))
        columns = (log.users, log.items, log.times, log.ratings)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
    return folder


@dataclass(frozen=True)
class Facts:
    """Of a protocol on the shop, worked out here from its published definition."""

    rows: dict[str, int] | None
    """How many events each exported file of training rows has; None where that is not worked out."""
    warm: int
    """Users that the test asks for, with a history …"""
    cold: int = 0
    """… and without one."""


def facts_of(protocol: str) -> Facts:
    """The part of each event is 0: what validation's models know, 1: also what the test's do, 2: the test."""
    log = log_of_the_shop()
    if protocol == "strong-generalisation":
        _, liked = np.unique(log.users[log.ratings > 3.5], return_counts=True)
        return Facts(None, int(np.count_nonzero(liked >= 5) * 0.1))
    if protocol in ("time-to-split", "leave-one-out"):
        log = log.take(log.users != LONELY_USER)
    n, relevant = len(log.users), np.ones(len(log.users), np.bool_)
    if protocol == "leave-one-out":
        later = np.asarray([np.count_nonzero(log.users[place + 1 :] == user) for place, user in enumerate(log.users)])
        part = 2 - np.minimum(later, 2)
    elif protocol == "random-60-20-20":
        part, relevant = np.empty(n, np.int64), log.ratings >= 4
        part[np.random.default_rng(1).permutation(n)] = np.searchsorted([0.6 * n, 0.8 * n], np.arange(n), side="right")
    else:
        first, second = (log.times[int((n - 1) * share)] for share in (0.8, 0.9))
        part = (log.times > first).astype(np.int64) + (log.times > second)
    asked, known = np.unique(log.users[(part == 2) & relevant]), np.unique(log.users[part < 2])
    rows = {name: int(np.count_nonzero(part <= last)) for last, name in enumerate(("fit", "refit"))}
    return Facts(rows, len(np.intersect1d(asked, known)), len(np.setdiff1d(asked, known)))


@pytest.mark.parametrize(
    ("protocol", "targets", "metric"),
    [
        ("temporal", None, "ndcg@10"),
        ("time-to-split", "all", "ndcg@10"),
        ("time-to-split", "last", "hit_rate@10"),
        ("leave-one-out", None, "hit_rate@10"),
        ("strong-generalisation", None, "normalised_recall@20"),
        ("random-60-20-20", None, "precision@10"),
    ],
)
def test_the_command_prints_and_saves_one_table(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str, targets: str | None, metric: str
) -> None:
    """Protocol facts, not scores."""
    main(
        [
            "benchmark", "--protocol", protocol, "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path),
            "--models", "popularity,itemcf,ease", "--peers-python", str(tmp_path / "absent"), "--tracking", "",
            "--results", str(tmp_path / "results"), "--settings", str(tmp_path / "settings"),
            "--serving.channels", "popularity,itemcf", "--bootstrap.resamples", "20",
            *(["--targets", targets] if targets else []),
        ]
    )  # fmt: skip
    (path,) = (tmp_path / "results").glob("*.json")
    result = BenchmarkResult.load(path)
    assert (result.protocol, result.dataset, result.metrics[0]) == (protocol, shop.name, metric)
    facts, cuts_time = facts_of(protocol), protocol in ("temporal", "time-to-split")
    apart = [group for group in (("warm users", facts.warm), ("cold users", facts.cold)) if cuts_time]
    table = ("all users", facts.warm + facts.cold)
    if cuts_time and targets != "last":
        table, *apart = apart
    assert ((result.group, result.users), result.requests) == (table, table[1])
    assert [(group.group, group.users) for group in result.apart] == apart
    assert all([row.system for row in group.rows] == ["popularity", "itemcf"] for group in result.apart)
    assert result.catalogue == ITEMS + (protocol in ("temporal", "random-60-20-20"))
    (rows,) = (tmp_path / "benchmark").rglob("peers/*/rows")
    exported = {name: pq.read_metadata(rows / f"{name}.parquet").num_rows for name in ("fit", "refit")}
    assert facts.rows is None or exported == facts.rows
    assert [(row.system, row.origin) for row in result.rows] == [
        ("ease", "peer"),
        ("popularity", "channel"),
        ("itemcf", "channel"),
    ]
    assert result.row("ease").note == "not run: make peers"
    found = result.row("itemcf")
    assert found.figures is not None
    assert found.cpu_seconds is not None
    assert 0 < found.figures["recall@50"].mean <= 1
    assert str(tmp_path) not in path.read_text(), "no folder of this machine"
    printed = capsys.readouterr().out
    assert printed.startswith(f"{protocol}, {shop.name}, targets ")
    assert f"{found.figures[metric].mean:.4f}" in printed


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own use of SQLAlchemy
def test_tuning_is_one_command_and_its_runs_are_found_again(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command to MLflow and back: the better of two trials is saved and logged."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    main(
        [
            "tune", "--protocol", "temporal", "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path),
            "--models", "itemcf", "--max-trials", "2", "--settings", str(tmp_path / "settings"), "--tracking", uri,
            "--serving.channels", "popularity,itemcf",
        ]
    )  # fmt: skip
    place = tmp_path / "settings" / f"temporal-{shop.name}"
    trials = json.loads((place / "itemcf.json").read_text())["trials"]
    best = max(trials, key=lambda trial: float(trial["value"]))
    assert len(trials) == 2
    assert 0 < best["value"] <= 1
    assert (place / "itemcf.toml").read_text() == toml_of(best["settings"])
    track_result(uri, a_result())
    client = MlflowClient(tracking_uri=uri)
    (run,) = runs_of(client, f"tune-temporal-{shop.name}")
    assert run.info.run_name == "itemcf"
    assert run.data.params == {key: str(value) for key, value in best["settings"].items()}
    assert run.data.metrics["validation_ndcg_at_10"] == pytest.approx(best["value"])
    rows = {run.info.run_name: run.data for run in runs_of(client, a_result().name)}
    assert set(rows) == {"ease (toy 1)", "ranked"}, "neither what others published nor what was not run"
    assert rows["ranked"].metrics == {
        "ndcg_at_10": 0.3,
        "coverage_at_10": 0.4,
        "popularity_at_10": 0.8,
        "cpu_seconds": 99.0,
    }
    assert rows["ranked"].params["origin"] == "ours"


def test_settings_of_a_protocol_are_not_chosen_at_a_moment_that_is_not_its_own(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--protocol", "leave-one-out", "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path / "data"),
        "--models", "itemcf", "--settings", str(tmp_path / "settings"), "--split.moment", "target", "--tracking", "",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(["tune", *arguments])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "requests at the time of the target know what peers of leave-one-out do not" in said
    assert "tune without --split.moment, and give it to `benchmark`" in said
    assert not (tmp_path / "settings").exists()
    assert not (tmp_path / "data").exists(), "before anything is read or trained"


def runs_of(client: MlflowClient, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


@pytest.mark.parametrize("protocol", ["leave-one-out", "strong-generalisation"])
def test_a_protocol_without_a_cut_in_time_has_a_ranker_too(shop: Path, tmp_path: Path, protocol: str) -> None:
    main(
        [
            "benchmark", "--protocol", protocol, "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path),
            "--models", "itemcf,blended,ranked", "--results", str(tmp_path), "--tracking", "", "--serving.channels",
            "popularity,itemcf", "--bootstrap.resamples", "20", "--lightgbm.max-rounds", "10",
            "--lightgbm.min-leaf-rows", "20",
        ]
    )  # fmt: skip
    result = BenchmarkResult.load(tmp_path / f"{protocol}-{shop.name}-{'last' if 'leave' in protocol else 'all'}.json")
    assert [(row.system, row.origin) for row in result.rows] == [
        ("itemcf", "channel"),
        ("blended", "ours"),
        ("ranked", "ours"),
    ]
    channel, ranked = (result.row(system).cpu_seconds for system in ("itemcf", "ranked"))
    assert channel is not None
    assert ranked is not None
    assert ranked > channel > 0


def test_the_moment_of_requests_names_the_result_and_trains_no_channel_anew(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "benchmark", "--protocol", "leave-one-out", "--dataset", "shop", "--data-dir", str(shop), "--root",
        str(tmp_path), "--models", "itemcf,ease", "--results", str(tmp_path / "results"), "--tracking", "",
        "--serving.channels", "popularity,itemcf", "--bootstrap.resamples", "20", "--peers-python",
        str(tmp_path / "absent"),
    ]  # fmt: skip
    main(arguments)
    trained = {path.name for path in (tmp_path / "benchmark").rglob("work/*")}
    main([*arguments, "--split.moment", "target"])
    assert {path.name for path in (tmp_path / "benchmark").rglob("work/*")} == trained
    name = f"leave-one-out-{shop.name}-last"
    usual = BenchmarkResult.load(tmp_path / "results" / f"{name}.json")
    as_served = BenchmarkResult.load(tmp_path / "results" / f"{name}-asked-at-target.json")
    assert usual.command == as_served.command.replace(" --split.moment target", "")
    assert (usual.moment, as_served.moment) == ("", "target")
    assert "targets last, asked at the time of the target: 166 all users" in capsys.readouterr().out
    digests = {path.parent.parent.name: path.read_text() for path in (tmp_path / "benchmark").rglob(DIGEST_FILE)}
    assert set(digests) == {"leave-one-out-last", "leave-one-out-last-asked-at-target"}
    assert len(set(digests.values())) == 2, "peers that read time are asked at that moment, too"


def test_what_does_not_cut_time_is_evaluated_and_never_published(shop: Path, tmp_path: Path) -> None:
    arguments = ["--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main(["run", *arguments, "--split.protocol", "leave-one-out"])
    assert stopped.value.code == 2
    config = OfflineConfig.from_arguments([*arguments, "--split.protocol", "leave-one-out"], "test")
    with pytest.raises(DataError, match="leave-one-out does not cut time"):
        _ = Workflow(config).split
