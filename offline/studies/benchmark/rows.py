"""The rows of a protocol as files, for models that live in another environment.

fit, refit                    what may be learned from, for validation and for the test, in the protocol's stable order
validation_*, test_*          the requesting users (queries) and their histories; row numbers count from 0
validation_relevant           what validation should find; what the test should find is not written
                              (of validation only the requests that our own settings are chosen by: the warm ones
                              where time is cut)
catalogue                     the items that may be listed
facts.json                    protocol, dataset, targets, metric, list_length, seed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gateway.pipeline.request import Request
from offline.dataset.interactions import Dataset, Interactions, Snapshot
from offline.metrics.ranking import LONGEST
from offline.protocols import Fold, Plan
from offline.protocols.targets import TargetKind, Targets
from offline.studies.benchmark.headlines import measured_group
from recsys.domain import Ids

FACTS_FILE = "facts.json"
DIGEST_FILE = "rows.sha256"
"""One digest of everything that is written: lists made from other rows are never taken for lists from these."""


def export_rows(
    plan: Plan, test: Targets, folder: Path, *, dataset: str, kind: TargetKind, metric: str, seed: int
) -> str:
    """Writes the files below `folder`; returns their digest. `test` are the targets of the test fold."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "fit": _events(plan.validation.training_view.dataset, plan.validation.training_view.cutoff),
        "refit": _events(plan.test.training_view.dataset, plan.test.training_view.cutoff),
        "catalogue": pa.table({"item_id": _snapshot(plan.test).catalogue.item_ids}),
    }
    asked = plan.validation.ask(_snapshot(plan.validation), plan.labels)
    _, measured = measured_group(plan, plan.labels, asked)
    validation = asked.where(measured)
    for name, targets in (("validation", validation), ("test", test)):
        tables[f"{name}_queries"] = _queries(targets.requests)
        tables[f"{name}_histories"] = _histories(targets.requests)
    numbers = np.repeat(np.arange(len(validation), dtype=np.int64), validation.relevant.counts)
    tables["validation_relevant"] = pa.table({"request": numbers, "item_id": validation.relevant.item_ids})
    facts = {
        "protocol": plan.protocol,
        "dataset": dataset,
        "targets": kind,
        "metric": metric,
        "list_length": LONGEST,
        "seed": seed,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, table in sorted(tables.items()):
        _add(digest, name, table)
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    (folder / DIGEST_FILE).write_text(digest.hexdigest() + "\n", "ascii")
    return digest.hexdigest()


def _snapshot(fold: Fold) -> Snapshot:
    return fold.training_view.dataset.snapshot(fold.training_view.cutoff)


def _events(dataset: Dataset, cutoff: int) -> pa.Table:
    events: Interactions = dataset.interactions.until(cutoff)
    return pa.table(
        {
            "user_id": events.user_ids,
            "item_id": events.item_ids,
            "timestamp": events.timestamps,
            "value": events.values,
        }
    )


def _queries(requests: Sequence[Request]) -> pa.Table:
    users = [request.user_id for request in requests]
    moments = [request.as_of for request in requests]
    return pa.table(
        {
            "request": np.arange(len(requests), dtype=np.int64),
            "user_id": np.asarray(users, np.int64),
            "as_of": np.asarray(moments, np.int64),
        }
    )


def _histories(requests: Sequence[Request]) -> pa.Table:
    histories = [request.history for request in requests]
    lengths = np.asarray([len(history) for history in histories], np.int64)
    columns: dict[str, Ids | np.ndarray[Any, Any]] = {
        "request": np.repeat(np.arange(len(requests), dtype=np.int64), lengths),
        "item_id": np.concatenate([*(h.item_ids for h in histories), np.empty(0, np.int64)]),
        "timestamp": np.concatenate([*(h.timestamps for h in histories), np.empty(0, np.int64)]),
        "value": np.concatenate([*(h.values for h in histories), np.empty(0, np.float32)]),
    }
    return pa.table(columns)


def _add(digest: Any, name: str, table: pa.Table) -> None:
    digest.update(name.encode())
    for column in table.column_names:
        digest.update(np.ascontiguousarray(table[column].to_numpy()).tobytes())
