"""Who is asked for, and what the lists must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gateway.bundle.state import StoredHistories
from gateway.pipeline.pipeline import Pipeline
from offline.ranking.in_process import ChannelSource, RankerSource, run_pipeline
from race.in_process import Gateway
from rank_server.scoring import Ranker
from recall_server.channels.registry import open_channels
from recsys.bundle import BundleStore

LOADED = 8
"""Users whose requests make the load."""
COMPARED = 32
"""Users whose lists are compared before anything is timed."""
_SHORTEST, _LONGEST = 0.02, 0.98


def by_history_length(bundle_root: Path, n: int) -> dict[int, int]:
    """`n` users with the number of their stored events, from short to long histories at equal shares of all users."""
    store = BundleStore(bundle_root)
    histories = StoredHistories.open(store.open(store.release().current).folder)
    lengths = np.diff(histories.indptr)
    order = np.argsort(lengths, kind="stable")
    places = np.linspace(_SHORTEST * (len(order) - 1), _LONGEST * (len(order) - 1), n).astype(np.int64)
    return {int(histories.user_ids[row]): int(lengths[row]) for row in order[places]}


def offline_lists(bundle_root: Path, user_ids: Sequence[int], count: int) -> dict[int, list[int]]:
    """The items of each user as the pipeline of `offline evaluate` makes them, one request at a time."""
    store = BundleStore(bundle_root)
    folder, gateway = store.open(store.release().current).folder, Gateway.open(bundle_root)
    served = gateway.served
    sources = [ChannelSource(channel) for channel in open_channels(gateway.policy, folder)]
    ranker = RankerSource(Ranker.open(folder))
    pipeline = Pipeline(served.catalogue, gateway.policy, sources, ranker, served.fallback)
    requests = [gateway.ask(user_id, count).request for user_id in user_ids]
    answers = run_pipeline(pipeline, requests, batch=1)
    return {user_id: answer.candidates.item_ids.tolist() for user_id, answer in zip(user_ids, answers, strict=True)}


def differences(expected: Mapping[int, list[int]], found: Mapping[int, list[int]]) -> list[str]:
    """One line per user whose list is another."""
    return [
        f"user {user_id}: {found[user_id]} instead of {items}"
        for user_id, items in expected.items()
        if found[user_id] != items
    ]
