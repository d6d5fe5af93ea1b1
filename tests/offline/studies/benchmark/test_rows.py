"""The rows that peers learn from and are asked: one contract, and nothing of what the test should find."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offline.dataset.splits import SplitConfig
from offline.protocols import Plan, plan_of
from offline.protocols.targets import Targets
from offline.studies.benchmark.rows import DIGEST_FILE, export_rows
from tests.offline.studies.benchmark.bench import exported
from tests.offline.tastes import DAY, dataset_of_tastes


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


def test_peers_are_evaluated_on_the_validation_requests_that_ours_are(tmp_path: Path) -> None:
    """Where time is cut ours are chosen on warm users; users 1 to 20 have no event before the cut-off."""
    whole = dataset_of_tastes()
    events = whole.interactions
    newcomers = (events.user_ids <= 20) & (events.timestamps < 82 * DAY)
    plan = plan_of(replace(whole, interactions=events.take(~newcomers)), SplitConfig(protocol="temporal"))
    known = plan.validation.training_view
    asked = plan.validation.ask(known.dataset.snapshot(known.cutoff), plan.labels)
    assert 0 < asked.warm.sum() < len(asked)
    export_rows(plan, asked, tmp_path, dataset="tastes", kind="all", metric="ndcg@10", seed=1)
    queries = pq.read_table(tmp_path / "validation_queries.parquet")
    assert queries["user_id"].to_pylist() == asked.user_ids[asked.warm].tolist()
    relevant = pq.read_table(tmp_path / "validation_relevant.parquet")
    of_warm = np.repeat(asked.warm, asked.relevant.counts)
    assert relevant["item_id"].to_pylist() == asked.relevant.item_ids[of_warm].tolist()
    assert np.bincount(relevant["request"].to_numpy()).tolist() == asked.relevant.counts[asked.warm].tolist()
