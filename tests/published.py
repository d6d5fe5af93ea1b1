"""A whole bundle in seconds: every role's real files, trained on the checkerboard, published with golden requests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from gateway.bundle.state import StoredHistories, write_gateway_files
from gateway.pipeline.request import Request
from offline.dataset.interactions import Snapshot
from offline.publish.golden_requests import write_golden
from offline.publish.publish import BundleFacts, publish
from offline.ranking.samples import feature_store
from offline.recall import als, content, popularity, two_tower
from offline.recall.als import ALSConfig
from offline.recall.content import ContentConfig
from offline.recall.itemcf import training as itemcf
from offline.recall.itemcf.training import ItemCFConfig
from offline.recall.popularity import PopularityConfig
from offline.recall.two_tower.config import PooledConfig, TwoTowerConfig
from rank_server.scoring import GRAPH_FILE
from recall_server.channels.vector import read_facts
from recsys.bundle import BundleStore, ChannelPolicy, ServingPolicy
from recsys.catalogue import ItemTexts
from recsys.domain import EventType
from recsys.features import FeatureStore
from tests.recall_server.toy import checkerboard

USERS, ITEMS = 24, 80
"""User u has rated the items of the same parity, 39 or 40 of the 80; ids are 1 to 80."""

TOWERS = TwoTowerConfig(
    threads=1,
    device="cpu",
    pooled=PooledConfig(embedding_size=8, heads=2, hidden=16, min_examples=256, batch_size=64, epochs=2),
)

TRAINERS: dict[str, Callable[[Snapshot, Path], object]] = {
    "popularity": lambda snapshot, folder: popularity.train(snapshot, PopularityConfig(), folder),
    "itemcf": lambda snapshot, folder: itemcf.train(snapshot, ItemCFConfig(), folder),
    "vector": lambda snapshot, folder: two_tower.train(snapshot, TOWERS, folder),
    "als": lambda snapshot, folder: als.train(snapshot, ALSConfig(factors=4, reg=0.1, threads=1), folder),
    "content": lambda snapshot, folder: content.train(snapshot, ContentConfig(), folder),
}


def policy_of(channels: Sequence[str]) -> ServingPolicy:
    """Every channel alike, then the ranker."""
    asked = tuple(ChannelPolicy(name=name, count=30, weight=1.0) for name in channels)
    return ServingPolicy(channels=asked, rank_count=40, ranking="ranked", serving_clock="cutoff")


POLICY = policy_of(("popularity", "itemcf", "vector"))


def publish_checkerboard(root: Path, *, channels: Sequence[str] = ("popularity", "itemcf", "vector")) -> str:
    """Trains, records golden requests and releases a production bundle below `root`; returns its version."""
    snapshot, policy = checkerboard(USERS, ITEMS), policy_of(channels)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder)
        _write_parts(snapshot, policy, part)
        store = feature_store(snapshot, policy)
        facts = BundleFacts(
            purpose="production",
            dataset="checkerboard",
            cutoff=snapshot.cutoff,
            events_watermarks={},
            policy=policy,
            feature_names=store.feature_names,
            index=read_facts(part).index if "vector" in channels else None,
            metrics={},
        )
        requests = [Request(snapshot.history(user), snapshot.cutoff, 10, user_id=user) for user in (0, 1)]
        return publish(BundleStore(root), [part], facts, golden=lambda staging: write_golden(staging, policy, requests))


def _write_parts(snapshot: Snapshot, policy: ServingPolicy, folder: Path) -> None:
    snapshot.catalogue.save(folder)
    ids = snapshot.catalogue.item_ids
    ItemTexts.of([f"film-{item_id}" for item_id in ids], [f"Film {item_id}" for item_id in ids]).save(folder)
    for channel in policy.channels:
        TRAINERS[channel.name](snapshot, folder)
    store = feature_store(snapshot, policy)
    store.save(folder)
    _write_ranker(store, folder)
    write_gateway_files(folder, histories=_histories(snapshot), user_keys={}, popular_item_ids=ids)


def _write_ranker(store: FeatureStore, folder: Path) -> None:
    """A graph whose score is one feature: how often the item was rated."""
    column = helper.make_tensor("column", TensorProto.INT64, [], [store.feature_names.index("item_count_all")])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["features", "column"], ["score"], axis=1)],
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(store.feature_names)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [column],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString())


def _histories(snapshot: Snapshot) -> StoredHistories:
    histories = [snapshot.history(user) for user in range(USERS)]
    lengths = [len(history) for history in histories]
    n = sum(lengths)
    return StoredHistories(
        np.arange(USERS, dtype=np.int64),
        np.cumsum([0, *lengths], dtype=np.int64),
        np.concatenate([history.item_ids for history in histories]),
        np.concatenate([history.timestamps for history in histories]),
        np.full(n, EventType.RATING, np.int8),
        np.concatenate([history.values for history in histories]),
    )
