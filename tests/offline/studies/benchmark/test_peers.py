"""Peers of the bench: run once, tuned once per budget, and refused where their lists break the contract."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offline.metrics.ranking import NO_ITEM
from offline.protocols import Plan
from offline.protocols.targets import Targets
from offline.studies.benchmark import peers as peers_module
from offline.studies.benchmark.peers import ORIGIN_FILE, ListsOrigin, PeerPlace, read_lists, run_peer
from offline.studies.benchmark.rows import DIGEST_FILE
from recsys.errors import ContractBroken
from tests.offline.studies.benchmark.bench import exported
from tests.offline.tastes import ITEMS

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


def test_a_larger_budget_tunes_again_and_a_smaller_one_notes_what_it_took_over(
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
        ({"rank": [1, 1]}, "a rank is given twice"),
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
