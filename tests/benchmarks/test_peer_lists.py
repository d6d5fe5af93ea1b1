"""Lists of peers: order, ties, what is never listed; the metrics against hand-computed worlds."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from peers.lists import best_items, list_items, measure, write_lists
from peers.rows import Events, Requests, RowsFolder
from scipy import sparse

RELEVANT = sparse.csr_matrix(np.array([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=np.float32))
TOP = np.array([[3, 0, 1], [1, 2, -1], [0, 1, 2]])
GAIN = 1 / np.log2(np.array([2, 3, 4]))


def toy() -> RowsFolder:
    """Four items, of which the last is outside the catalogue; request 40 has seen item 1, request 50 nothing."""
    history = Events(np.array([0]), np.array([1]), np.array([3]), np.array([4.0]), 2, 4)
    requests = Requests(np.array([40, 50]), np.array([9, 9]), history)
    listable = np.array([True, True, True, False])
    facts = {"list_length": 3}
    return RowsFolder(facts, np.array([11, 12, 13, 14]), listable, history, history, requests, requests, RELEVANT, "")


def test_ties_go_to_the_lower_position_and_gaps_stay_empty() -> None:
    positions, scores = best_items(np.array([[1.0, 2.0, 2.0, np.nan], [-np.inf, np.nan, 0.0, np.inf]]), 3)
    assert positions.tolist() == [[1, 2, 0], [2, -1, -1]]
    assert scores[0].tolist() == [2.0, 2.0, 1.0]


def test_seen_items_and_items_outside_the_catalogue_are_never_listed() -> None:
    rows = toy()
    positions, _ = list_items(lambda part: np.tile([0.1, 0.9, 0.2, 1.0], (len(part.ids), 1)), rows.test, rows)
    assert positions.tolist() == [[2, 0, -1], [1, 2, 0]]


@pytest.mark.parametrize(
    ("metric", "first", "second"),
    [
        ("ndcg@3", (GAIN[0] + GAIN[2]) / GAIN.sum(), 0.0),
        ("ndcg@2", GAIN[0] / (GAIN[0] + GAIN[1]), 0.0),
        ("hr@1", 1.0, 0.0),
        ("recall@3", 2 / 3, 0.0),
        ("precision@3", 2 / 3, 0.0),
        ("map@3", (1 + 2 / 3) / 3, 0.0),
    ],
)
def test_metrics_by_hand(metric: str, first: float, second: float) -> None:
    """The third request has nothing relevant and does not count; the second's item is not listed."""
    assert measure(TOP, RELEVANT, metric) == pytest.approx((first + second) / 2)


def test_a_list_shorter_than_the_cut_counts_as_missed_places() -> None:
    assert measure(TOP[:, :1], RELEVANT, "recall@3") == pytest.approx((1 / 3) / 2)


def test_another_metric_is_refused() -> None:
    with pytest.raises(ValueError, match=r"metric is 'auc'; expected ndcg@k"):
        measure(TOP, RELEVANT, "auc")


def test_written_lists_are_the_contract(tmp_path: Path) -> None:
    rows = toy()
    empty = write_lists(
        tmp_path / "out" / "lists.parquet",
        rows.test,
        rows.items,
        (np.array([[2, 0, -1], [-1, -1, -1]]), np.array([[0.5, 0.25, -np.inf], [-np.inf] * 3])),
    )
    table = pq.read_table(tmp_path / "out" / "lists.parquet")
    assert empty == 1
    assert [str(kind) for kind in table.schema.types] == ["int64", "int32", "int64", "float"]
    assert table.to_pydict() == {"request": [40, 40], "rank": [1, 2], "item_id": [13, 11], "score": [0.5, 0.25]}
