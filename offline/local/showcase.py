"""A readable demonstration: recent history, recommendations with reasons, and the time of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np

from gateway.bundle.state import StoredHistories, read_users
from recsys.catalogue import Catalogue, ItemTexts
from recsys.domain import History
from recsys.v1.recommend_pb2 import Reason, RecommendedItem, RecommendRequest, RecommendResponse
from recsys.v1.recommend_pb2_grpc import RecommendationServiceStub

USERS = 3
RECENT = 5
COUNT = 5
MIN_EVENTS = 10


def demonstrate(target: str, bundle: Path) -> Iterator[str]:
    """Lines about `USERS` users of the bundle in the folder `bundle`, answered by the gateway at `target`."""
    histories, titles = StoredHistories.open(bundle), _Titles(bundle)
    keys = {number: key for key, number in read_users(bundle).items()}
    with grpc.insecure_channel(target) as channel:
        stub = RecommendationServiceStub(channel)
        users = latest_users(histories)
        for user_id in users:  # a first round, so that the times shown are those of warmed-up processes
            stub.Recommend(RecommendRequest(user_id=user_id, count=COUNT), timeout=5)
        for user_id in users:
            response = stub.Recommend(RecommendRequest(user_id=user_id, count=COUNT, debug=True), timeout=5)
            yield from _described(keys.get(user_id, str(user_id)), titles.recent(histories.of(user_id)), response)


def latest_users(histories: StoredHistories) -> list[int]:
    """The `USERS` most recently active users, among those with some history."""
    lengths = np.diff(histories.indptr)
    enough = np.flatnonzero(lengths >= min(MIN_EVENTS, int(lengths.max(initial=0))))
    last_seen = histories.timestamps[histories.indptr[enough + 1] - 1]
    return [int(user) for user in histories.user_ids[enough[np.argsort(-last_seen, kind="stable")[:USERS]]]]


class _Titles:
    """Titles of a bundle's items."""

    def __init__(self, bundle: Path) -> None:
        self._catalogue, self._texts = Catalogue.load(bundle), ItemTexts.load(bundle)

    def recent(self, history: History) -> list[str]:
        """The latest items, newest first, with the rating if there is one."""
        latest = history.last(RECENT)
        rows = self._catalogue.rows(latest.item_ids)
        described = [
            self._texts.titles[row] + ("" if np.isnan(value) else f" ({value:g})")
            for row, value in zip(rows, latest.values, strict=True)
            if row >= 0
        ]
        return described[::-1]


def _described(user_key: str, recent: Sequence[str], response: RecommendResponse) -> Iterator[str]:
    yield f"\nuser {user_key}, lately: {' · '.join(recent)}"
    for position, item in enumerate(response.items, start=1):
        yield f"  {position}. {item.title:<44.44} {item.score:8.3f}  {_reasons(item)}"
    times = " · ".join(f"{stage.name} {stage.microseconds / 1e3:.1f}" for stage in response.stages)
    yield f"  ms: {times}{'   DEGRADED' if response.degraded else ''}"


def _reasons(item: RecommendedItem) -> str:
    return ", ".join(_reason(reason) for reason in item.reasons)


def _reason(reason: Reason) -> str:
    rank = f"{reason.channel} #{reason.rank}"
    return f"{rank} (because of {reason.seed_title})" if reason.HasField("seed_item_id") else rank
