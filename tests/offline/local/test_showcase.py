"""What `make serve` shows of three users: their history, recommendations with reasons, and the time of each stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.bundle.state import StoredHistories, write_users
from offline.local.showcase import demonstrate, latest_users
from recsys.catalogue import Catalogue, ItemTexts
from recsys.v1 import recommend_pb2, recommend_pb2_grpc, types_pb2
from tests.offline.gateways import serving

LENGTHS = {1: 12, 2: 3, 3: 11, 4: 10, 5: 10, 6: 0}
"""Events of each user. User u has taken items 1, 2, … and the last of them at time 100 - u; the k-th is rated k / 2."""

SECONDS = {"history": 0.0004, "recall:itemcf": 0.0123, "rank": 0.006}


def histories_of(lengths: dict[int, int]) -> StoredHistories:
    counts = np.array(list(lengths.values()), np.int64)
    items = np.concatenate([np.arange(1, n + 1) for n in counts]).astype(np.int64)
    ends = np.repeat([100 - user for user in lengths], counts)
    last = np.repeat(counts, counts)
    return StoredHistories(
        np.array(list(lengths), np.int64),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items,
        (ends - (last - items)).astype(np.int64),
        np.ones(len(items), np.int8),
        np.where(items == last, np.nan, items / 2).astype(np.float32),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What the demonstration reads of a bundle: item 11 is not in its catalogue, and user 4 has a key of their own."""
    ids = np.array([*range(1, 11), 12, 13], np.int64)
    Catalogue(ids, np.full(len(ids), 2000, np.int16), np.zeros((len(ids), 0), np.bool_), ()).save(tmp_path)
    ItemTexts.of([str(item) for item in ids], [f"Film {item}" for item in ids]).save(tmp_path)
    histories_of(LENGTHS).save(tmp_path)
    write_users(tmp_path, np.array([4]), ["ann@example.com"])
    return tmp_path


class ToyGateway(recommend_pb2_grpc.RecommendationServiceServicer):
    """Recommends two items to everybody, and remembers who asked."""

    def __init__(self, *, degraded: bool = False) -> None:
        self.degraded = degraded
        self.asked: list[tuple[int, bool]] = []

    def Recommend(self, request: Any, context: Any) -> recommend_pb2.RecommendResponse:  # noqa: N802
        self.asked.append((request.user_id, request.debug))
        linked = recommend_pb2.Reason(channel="itemcf", rank=2, seed_item_id=9, seed_title="Film 9")
        popular = recommend_pb2.Reason(channel="popularity", rank=58)
        stages = [types_pb2.Stage(name=name, microseconds=round(taken * 1e6)) for name, taken in SECONDS.items()]
        return recommend_pb2.RecommendResponse(
            items=[
                recommend_pb2.RecommendedItem(item_id=13, title="Film 13", score=2.1844, reasons=[linked, popular]),
                recommend_pb2.RecommendedItem(item_id=12, title="A title " * 9, score=-0.5, reasons=[popular]),
            ],
            stages=stages if request.debug else [],
            degraded=self.degraded,
        )


def test_three_users_are_shown_with_history_recommendations_reasons_and_times(bundle: Path) -> None:
    gateway = ToyGateway()
    with serving(gateway) as target:
        lines = list(demonstrate(target, bundle))
    recommended = [
        f"  1. {'Film 13':<44}    2.184  itemcf #2 (because of Film 9), popularity #58",
        f"  2. {('A title ' * 9)[:44]}   -0.500  popularity #58",
        "  ms: history 0.4 · recall:itemcf 12.3 · rank 6.0",
    ]
    assert lines == [
        "\nuser 1, lately: Film 12 · Film 10 (5) · Film 9 (4.5) · Film 8 (4)",
        *recommended,
        "\nuser 3, lately: Film 10 (5) · Film 9 (4.5) · Film 8 (4) · Film 7 (3.5)",
        *recommended,
        "\nuser ann@example.com, lately: Film 10 · Film 9 (4.5) · Film 8 (4) · Film 7 (3.5) · Film 6 (3)",
        *recommended,
    ]


def test_the_times_shown_are_those_of_a_second_round(bundle: Path) -> None:
    gateway = ToyGateway()
    with serving(gateway) as target:
        list(demonstrate(target, bundle))
    assert gateway.asked == [(1, False), (3, False), (4, False), (1, True), (3, True), (4, True)]


def test_a_degraded_answer_says_so(bundle: Path) -> None:
    with serving(ToyGateway(degraded=True)) as target:
        lines = list(demonstrate(target, bundle))
    assert sum(line.endswith("rank 6.0   DEGRADED") for line in lines) == 3


@pytest.mark.parametrize(
    ("lengths", "shown"),
    [({7: 2, 8: 3, 9: 3}, [8, 9]), ({7: 40, 8: 9, 9: 10}, [7, 9])],
    ids=["few events each", "some with enough"],
)
def test_users_with_some_history_are_shown_the_latest_first(lengths: dict[int, int], shown: list[int]) -> None:
    assert latest_users(histories_of(lengths)) == shown
