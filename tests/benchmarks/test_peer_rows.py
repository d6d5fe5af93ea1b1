"""Peers read exactly the rows that were exported, and refuse others with the file at fault."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from peers.rows import Events, RowsError, read_rows

EVENTS = {
    "user_id": np.array([7, 7, 9], dtype=np.int64),
    "item_id": np.array([30, 10, 30], dtype=np.int64),
    "timestamp": np.array([1, 1, 2], dtype=np.int64),
    "value": np.array([5, 3, 4], dtype=np.float32),
}


def write(path: Path, columns: dict[str, np.ndarray]) -> None:
    pq.write_table(pa.table(columns), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two users, items 10, 20 (only in the catalogue) and 30; request 101 is user 9's, 100 is user 7's."""
    for name in ("fit", "refit"):
        write(tmp_path / f"{name}.parquet", EVENTS)
    for name in ("validation", "test"):
        queries = {"request": [101, 100], "user_id": [9, 7], "as_of": [5, 6]}
        write(tmp_path / f"{name}_queries.parquet", {k: np.array(v, dtype=np.int64) for k, v in queries.items()})
        history = {
            "request": np.array([100, 101, 100], dtype=np.int64),
            "item_id": np.array([30, 30, 999], dtype=np.int64),
            "timestamp": np.array([1, 2, 3], dtype=np.int64),
            "value": np.array([5, 4, 1], dtype=np.float32),
        }
        write(tmp_path / f"{name}_histories.parquet", history)
    relevant = {"request": np.array([100, 101, 101]), "item_id": np.array([10, 20, 777])}
    write(tmp_path / "validation_relevant.parquet", relevant)
    write(tmp_path / "catalogue.parquet", {"item_id": np.array([10, 20])})
    facts = {"protocol": "toy", "dataset": "toy", "targets": "all", "metric": "ndcg@2", "list_length": 3, "seed": 1}
    (tmp_path / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    return tmp_path


def test_requests_keep_the_order_of_the_file_and_own_their_histories(folder: Path) -> None:
    rows = read_rows(folder)
    assert rows.items.tolist() == [10, 20, 30]
    assert rows.listable.tolist() == [True, True, False]
    assert rows.test.ids.tolist() == [101, 100]
    assert rows.test.as_of.tolist() == [5, 6]
    assert rows.test.history.owner.tolist() == [1, 0]
    assert rows.test.history.item.tolist() == [2, 2]


def test_an_item_that_nobody_can_list_still_counts_as_relevant(folder: Path) -> None:
    relevant = read_rows(folder).relevant
    assert relevant.toarray().tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]


def test_a_part_renumbers_its_histories(folder: Path) -> None:
    part = read_rows(folder).test.part(np.array([1]))
    assert part.ids.tolist() == [100]
    assert part.history.owner.tolist() == [0]
    assert part.history.n_owners == 1


def test_the_fingerprint_follows_the_rows(folder: Path) -> None:
    before = read_rows(folder).fingerprint
    assert read_rows(folder).fingerprint == before
    write(folder / "refit.parquet", {**EVENTS, "item_id": np.array([30, 10, 10], dtype=np.int64)})
    after = read_rows(folder).fingerprint
    queries = pq.read_table(folder / "test_queries.parquet").to_pydict()
    write(folder / "test_queries.parquet", {**queries, "as_of": np.array([5, 7], dtype=np.int64)})
    assert len({before, after, read_rows(folder).fingerprint}) == 3, "another moment of a request is another row"


def test_matrices_by_weight_and_by_the_last_events() -> None:
    owner, item = np.array([0, 0, 0, 1]), np.array([0, 1, 0, 2])
    events = Events(owner, item, np.arange(4), np.array([2, 5, 4, 3], dtype=np.float32), 2, 3)
    assert events.matrix().toarray().tolist() == [[1, 1, 0], [0, 0, 1]]
    assert events.matrix("value").toarray().tolist() == [[4, 5, 0], [0, 0, 3]]
    assert events.matrix("liked").toarray().tolist() == [[1, 1, 0], [0, 0, 0]]
    assert events.matrix(last=1).toarray().tolist() == [[1, 0, 0], [0, 0, 1]]


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "test_histories.parquet").unlink()
    with pytest.raises(RowsError, match=r"test_histories\.parquet is missing; export the rows again"):
        read_rows(folder)


def test_another_type_is_named(folder: Path) -> None:
    write(folder / "fit.parquet", {**EVENTS, "value": EVENTS["value"].astype(np.float64)})
    with pytest.raises(RowsError, match=r"fit\.parquet has .*value.*double.* where .*float32"):
        read_rows(folder)


def test_a_history_without_a_query_is_named(folder: Path) -> None:
    history = pq.read_table(folder / "test_histories.parquet").to_pydict()
    history["request"][0] = 55
    pq.write_table(
        pa.table(history, schema=pq.read_schema(folder / "test_histories.parquet")), folder / "test_histories.parquet"
    )
    with pytest.raises(RowsError, match="names request 55"):
        read_rows(folder)
