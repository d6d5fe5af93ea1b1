"""The rows that peers learn from and are asked: one contract, and nothing of what the test should find."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from offline.protocols import Plan
from offline.protocols.targets import Targets
from offline.studies.benchmark.rows import DIGEST_FILE
from tests.offline.studies.benchmark.bench import exported


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
