"""Replay against a gateway of one process that answers with the very pipeline: it must find what evaluate found.

The test of all five processes is in tests/integration; here is what replay itself does with answers, errors and time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import grpc
import numpy as np
import pytest

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from gateway.pipeline.stages import Budget
from offline.dataset.splits import Window
from offline.evaluation.evaluate import Models, served_lists
from offline.evaluation.latency import Timing, latency_of
from offline.evaluation.parity import Parity, compare
from offline.evaluation.replay import PacingConfig, Replayed, active_version, check_cutoff, message_of, replay
from offline.metrics.ranking import NO_ITEM
from offline.protocols.targets import TargetKind, Targets, targets_of
from offline.ranking.in_process import ChannelSource, RankerSource
from offline.ranking.samples import feature_store
from rank_server.scoring import Ranker
from recsys import convert
from recsys.bundle import FORMAT_VERSION, Bundle, Manifest
from recsys.domain import History, RankQuery, Scores
from recsys.errors import BundleMismatch, Unreachable
from recsys.features import FeatureStore
from recsys.v1 import recommend_pb2, recommend_pb2_grpc, types_pb2
from tests.offline.gateways import serving
from tests.offline.tastes import DAY, NoiseChannel, TasteChannel, dataset_of_tastes, policy_of

WINDOW = Window(60 * DAY, 100 * DAY)
DATASET = dataset_of_tastes()
SNAPSHOT = DATASET.snapshot(WINDOW.cutoff)
PACING = PacingConfig(deadline_seconds=120.0)


class WeighingRanker(Ranker):
    """Scores with a fixed sum over the real features, so that a wrong feature moves the order."""

    def __init__(self, store: FeatureStore, broken: str = "") -> None:
        self._store, self._broken = store, broken
        self._weights = np.random.default_rng(5).normal(0, 1, len(store.feature_names)).astype(np.float32)

    def score(self, queries: Any) -> list[Scores]:
        return [self._one(query) for query in queries]

    def _one(self, query: RankQuery) -> Scores:
        features = self._store.features(query)
        if self._broken:
            features[:, self._store.feature_names.index(self._broken)] = 0.0
        weighed: Scores = np.clip(features, -10, 10) @ self._weights
        return weighed


def models(broken: str = "") -> Models:
    catalogue, policy = SNAPSHOT.catalogue, policy_of("ranked")
    channels = [NoiseChannel(catalogue), TasteChannel(catalogue)]
    ranker = WeighingRanker(feature_store(SNAPSHOT, policy), broken)
    return Models(SNAPSHOT, channels, ranker, policy, Fallback(catalogue, catalogue.item_ids))


@dataclass
class ReplayedGateway(recommend_pb2_grpc.RecommendationServiceServicer):
    """Answers Recommend in this process; a test may break what it does."""

    models: Models
    version: str = "v1"
    forgets_seen: bool = False
    fails: Callable[[int], bool] = lambda _: False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Of the requests; two threads answer them."""

    def Recommend(self, request: Any, context: Any) -> recommend_pb2.RecommendResponse:  # noqa: N802
        if self.fails(next(self.numbers)):
            context.abort(grpc.StatusCode.UNAVAILABLE, "as the test wants it")
        if request.HasField("history"):
            history = convert.history_from_proto(request.history, as_of=request.as_of)
        else:
            history = SNAPSHOT.history(request.user_id)
        if self.forgets_seen:
            history = History.of(
                history.item_ids, history.timestamps, types=np.full(len(history), 3), values=history.values
            )
        pipeline = Pipeline(
            SNAPSHOT.catalogue,
            self.models.policy,
            [ChannelSource(channel) for channel in self.models.channels],
            RankerSource(self.models.ranker) if self.models.ranker else None,
            self.models.fallback or Fallback(SNAPSHOT.catalogue, SNAPSHOT.catalogue.item_ids),
        )
        asked = Request(history.until(request.as_of), request.as_of, request.count, user_id=request.user_id)
        (answer,) = asyncio.run(pipeline.run([asked], Budget.of(60)))
        return recommend_pb2.RecommendResponse(
            items=[
                recommend_pb2.RecommendedItem(item_id=item_id, score=score)
                for item_id, score in zip(answer.candidates.item_ids.tolist(), answer.scores.tolist(), strict=True)
            ],
            bundle_version=self.version,
            stages=[types_pb2.Stage(name=stage.name, microseconds=stage.microseconds) for stage in answer.stages],
        )

    def Status(self, request: Any, context: Any) -> recommend_pb2.StatusResponse:  # noqa: N802
        return recommend_pb2.StatusResponse(gateway=types_pb2.ServingStatus(active_version=self.version))


def bundle(cutoff: int = WINDOW.cutoff, version: str = "v1") -> Bundle:
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        bundle_version=version,
        purpose="evaluation",
        dataset="tastes",
        cutoff=cutoff,
        events_watermarks={},
        created="2024-01-01T00:00:00+00:00",
        software_version="0",
        feature_names=(),
        index=None,
        policy=policy_of("ranked"),
        roles={},
        files={},
    )
    return Bundle(Path(version), manifest)


def targets(kind: TargetKind) -> Targets:
    return targets_of(kind, DATASET, SNAPSHOT, WINDOW, max_users=30)


def replayed(gateway: ReplayedGateway, kind: TargetKind = "all", asked: Bundle | None = None) -> Replayed:
    with serving(gateway) as target:
        return replay(
            target, targets(kind), kind=kind, bundle=asked or bundle(), first_event=WINDOW.cutoff + 1, config=PACING
        )


def parity(gateway: ReplayedGateway, kind: TargetKind) -> Parity:
    return compare(served_lists(models(), targets(kind)), replayed(gateway, kind).lists, targets(kind))


@pytest.mark.parametrize("kind", get_args(TargetKind))
def test_replay_finds_what_evaluate_found(kind: TargetKind) -> None:
    found = parity(ReplayedGateway(models()), kind)
    assert (found.equal_entries, found.equal_lists, found.ndcg_difference) == (1, 1, 0)
    assert found.score_difference <= 1e-5


@pytest.mark.parametrize("feature", ["item_count_7d", "user_events", "cross_genre_affinity", "taste_rank"])
def test_one_broken_feature_is_found(feature: str) -> None:
    """A feature of the user alone moves scores, the others the order as well."""
    found = parity(ReplayedGateway(models(feature)), "all")
    assert found.score_difference > 1e-5


def test_a_broken_seen_filter_is_found() -> None:
    assert parity(ReplayedGateway(models(), forgets_seen=True), "all").equal_entries < 0.99


def test_latency_is_that_of_the_same_requests() -> None:
    found = replayed(ReplayedGateway(models()))
    latency = found.latency
    assert latency.requests == len(targets("all")) == len(found.lists.item_ids)
    assert 0 < latency.percentiles["p50"] <= latency.percentiles["p95"] <= latency.percentiles["p99"]
    assert set(latency.stages) == {"recall:noise", "recall:taste", "merge", "filter", "rank"}
    assert latency.stages["rank"]["p50"] < latency.percentiles["p50"]
    assert (latency.errors, latency.degraded) == ({}, 0)
    assert "0 failed, 0 degraded" in latency.table()


def test_failed_requests_are_counted_and_recommend_nothing() -> None:
    found = replayed(ReplayedGateway(models(), fails=lambda number: number in (2, 5)))
    assert found.latency.errors == {"UNAVAILABLE: as the test wants it": 2}
    empty = (found.lists.item_ids == NO_ITEM).all(axis=1)
    assert empty.sum() == 2
    assert "2 × UNAVAILABLE" in found.latency.table()


def test_a_gateway_that_answers_nothing_is_an_error() -> None:
    with pytest.raises(Unreachable, match="none of 30 requests was answered: UNAVAILABLE"):
        replayed(ReplayedGateway(models(), fails=lambda _: True))


def test_another_version_than_the_bundle_is_an_error() -> None:
    with pytest.raises(BundleMismatch, match="answered with bundle v2, expected v1 alone"):
        replayed(ReplayedGateway(models(), version="v2"))


def test_a_bundle_that_knows_the_answers_is_refused() -> None:
    with pytest.raises(BundleMismatch, match="serve the evaluation bundle"):
        replayed(ReplayedGateway(models()), asked=bundle(cutoff=WINDOW.cutoff + 1))
    check_cutoff(bundle(), WINDOW.cutoff + 1)


def test_the_active_version_is_asked_for() -> None:
    with serving(ReplayedGateway(models())) as target:
        assert active_version(target) == "v1"
    with serving(ReplayedGateway(models(), version="")) as target, pytest.raises(Unreachable, match="no bundle yet"):
        active_version(target)
    with pytest.raises(Unreachable, match="no gateway at 127"):
        active_version("127.0.0.1:1", timeout=0.5)


def test_requests_at_the_cutoff_rely_on_the_stored_history() -> None:
    request = Request(History.of([1], [5], values=[3.0]), 9, 50, user_id=7)
    assert not message_of(request, "all").HasField("history")


@pytest.mark.parametrize("kind", ["successive", "last"])
def test_requests_of_later_moments_carry_their_history(kind: TargetKind) -> None:
    request = Request(History.of([1], [5], values=[3.0]), 9, 50, user_id=7)
    sent = message_of(request, kind)
    assert (sent.history.item_ids, sent.history.timestamps, sent.history.values) == ([1], [5], [3.0])
    nobody = message_of(replace(request, history=History.empty(), user_id=None), kind)
    assert nobody.HasField("history")
    assert nobody.WhichOneof("user") is None


def test_percentiles_include_failed_requests() -> None:
    timings = [Timing(0.010, stages={"rank": 0.004})] * 98 + [
        Timing(2.0, "DEADLINE_EXCEEDED"),
        Timing(1.0, degraded=True),
    ]
    latency = latency_of(timings, 4.0)
    assert latency.percentiles["p50"] == pytest.approx(10)
    assert latency.percentiles["p99"] > 1_000
    assert latency.stages == {"rank": {"p50": 4.0, "p95": 4.0, "p99": 4.0}}
    assert (latency.per_second, latency.degraded, latency.errors) == (25, 1, {"DEADLINE_EXCEEDED": 1})
