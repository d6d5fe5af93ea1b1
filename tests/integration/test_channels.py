"""Any set of channels can be served: those of the bundle are started, asked, and give reasons."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from offline.local.log_file import log_file
from offline.local.serve import channels_of, served
from recsys.bundle import BundleStore
from recsys.v1 import recommend_pb2, recommend_pb2_grpc
from tests.published import publish_checkerboard

pytestmark = pytest.mark.integration

CHANNELS = ("popularity", "als", "content")


def test_a_bundle_is_served_by_the_channels_of_its_policy(tmp_path: Path) -> None:
    store = BundleStore(tmp_path / "bundles")
    publish_checkerboard(store.root, channels=CHANNELS)
    assert channels_of(store) == CHANNELS
    manifest = store.open(store.release().current).manifest
    assert (sorted(manifest.roles), manifest.index) == (["als", "content", "gateway", "popularity", "rank"], None)
    run, patient = tmp_path / "run", {"budget-seconds": "30", "probe-timeout-seconds": "5"}
    with served(store, folder=run, gateway_settings=patient) as target, grpc.insecure_channel(target) as channel:
        stub = recommend_pb2_grpc.RecommendationServiceStub(channel)
        status = stub.Status(recommend_pb2.StatusRequest(), timeout=60)
        answer = stub.Recommend(recommend_pb2.RecommendRequest(user_id=3, count=20), timeout=60)
    assert [backend.name for backend in status.backends] == [*CHANNELS, "rank"]
    assert not answer.degraded
    reasons = [reason for item in answer.items for reason in item.reasons]
    assert {reason.channel for reason in reasons} == set(CHANNELS)
    seeds = {
        reason.seed_item_id % 2 for reason in reasons if reason.channel in ("als", "content") and reason.seed_item_id
    }
    assert seeds == {0}, "user 3 has taken the items with even ids"
    assert "Traceback" not in "".join(log_file(tmp_path / "run/logs", role).read_text() for role in manifest.roles)
