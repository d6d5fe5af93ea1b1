"""The equality of replay and evaluation where a bundle has most parts: four channels, a predicted rating, two rankers.

As in `test_equality.py`, each thing that is held equal has a twin that breaks it on purpose and must be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from threadpoolctl import threadpool_limits

from offline.evaluation.evaluate import Models
from offline.evaluation.replay import Replayed, active_version
from offline.evaluation.reranking.lists import RerankConfig
from offline.local.serve import served
from offline.protocols.targets import TargetKind, Targets
from offline.ranking.rankers.choice import RankerChoice
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow
from rank_server.graphs import Feed, open_graph
from rank_server.scoring import GRAPH_FILE, MENU, Ranker
from recall_server.channels.als import ALSChannel
from recsys.bundle import Bundle
from recsys.domain import History, RankQuery
from recsys.features import FeatureStore
from recsys.features.selection import RATING_NAME
from tests.integration.conftest import QUICK
from tests.integration.test_equality import PATIENT, first, parity, replayed
from tests.integration.test_rerank import copied
from tests.waiting import PATIENCE_SECONDS, eventually

pytestmark = [pytest.mark.integration]

CHANNELS = ("popularity", "itemcf", "vector", "als")
SETTINGS = (
    f"--serving.channels={','.join(CHANNELS)}",
    "--als.factors=8",
    "--als.iterations=3",
    "--als.reg=5",
    "--als.threads=1",
    "--samples.svd-rating",
    "--samples.max-users=80",
    "--rating.factors=4",
    "--rating.max-sweeps=1",
    "--ranker.kind=blend",
    "--ranker.candidates=lightgbm,network",
    "--network.embedding-size=16",
    "--network.hidden=8",
    "--network.threads=1",
    "--network.learning-rate=0.003",
    "--lightgbm.threads=1",
    "--blend.constants=20",
    "--blend.sweeps=1",
    "--blend.rank-counts=60",
    "--blend.max-users=60",
)
WEIGHTS = {"lightgbm": 1.0, "network": 0.5}
NETWORK_SETTINGS = {"epochs": 1, "interact": 1.0, "like": 0.5, "rating": 0.25}
CHOICE = RankerChoice(
    ranker="blend",
    weights=WEIGHTS,
    settings={"lightgbm": {"rounds": 20}, "network": NETWORK_SETTINGS},
    ranking="ranked",
    ranked=0.0,
    blended=0.0,
    rankers={},
    curves={},
)
"""Stands for what validation would choose, so that every part has a weight, whatever so little data says of it."""
KINDS: tuple[TargetKind, ...] = ("all", "successive")
"""One with the histories that the gateway has, one with those that requests carry."""
REQUESTS = 40
Answers = Mapping[TargetKind, tuple[Targets, Replayed]]


def published(config: OfflineConfig) -> Workflow:
    """The evaluation bundle of `config`, trained as `CHOICE` says."""
    workflow = Workflow(config)
    workflow.ranking.choice = workflow.workspace.run("choice", CHOICE.save, facts=asdict(CHOICE))
    with threadpool_limits(1, user_api="blas"):  # on a busy machine several wait for each other
        workflow.publish("evaluation")
    return workflow


@pytest.fixture(scope="module")
def blend(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The system with most parts, on the small system's tables and channels."""
    config, root = trained.config, copied(trained, tmp_path_factory.mktemp("blend"))
    places = ["--dataset", config.dataset, "--data-dir", str(config.data_dir), "--root", str(root)]
    return published(OfflineConfig.from_arguments([*places, *QUICK, *SETTINGS], "test"))


@pytest.fixture(scope="module")
def bundle(blend: Workflow) -> Bundle:
    """What was published."""
    store = blend.config.store("evaluation")
    return store.open(store.release().current)


@pytest.fixture(scope="module")
def models(blend: Workflow) -> Models:
    """The bundle's models in this process."""
    return blend.models()


@pytest.fixture(scope="module")
def gateway(blend: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The six servers."""
    folder = tmp_path_factory.mktemp("servers")
    patient = {**PATIENT, "rollout-timeout-seconds": "120"}
    with served(blend.config.store("evaluation"), folder=folder, gateway_settings=patient) as address:
        yield address


@pytest.fixture(scope="module")
def answers(blend: Workflow, bundle: Bundle, gateway: str) -> Answers:
    """By kind, targets and what the servers answered to them."""
    assert active_version(gateway) == bundle.version
    targets = {kind: first(blend.test_targets(kind), REQUESTS) for kind in KINDS}
    return {kind: (asked, replayed(blend, gateway, asked, kind)) for kind, asked in targets.items()}


def check_equal(models: Models, targets: Targets, answered: Replayed) -> None:
    """All channels and the ranker were asked, and the lists are those of `models`."""
    assert (answered.latency.errors, answered.latency.degraded) == ({}, 0)
    assert {*(f"recall:{name}" for name in CHANNELS), "rank"} <= set(answered.latency.stages)
    found = parity(models, answered, targets)
    assert found.equal_lists == 1.0, found
    assert found.score_difference <= 1e-5, found
    assert found.ndcg_difference == 0.0


def test_the_bundle_has_all_of_these_parts(bundle: Bundle) -> None:
    """Otherwise this module would hold what its neighbour does."""
    manifest = bundle.manifest
    assert tuple(channel.name for channel in manifest.policy.channels) == CHANNELS
    assert all(channel.weight > 0 for channel in manifest.policy.channels)
    assert set(manifest.roles) == {*CHANNELS, "rank", "gateway"}
    assert RATING_NAME in manifest.feature_names
    assert manifest.policy.ranking == "ranked"
    graph = onnx.load(bundle.folder / GRAPH_FILE).graph
    constants = {constant.name: constant for constant in graph.initializer}
    weights = [float(numpy_helper.to_array(constants[f"weight{number}"])) for number in range(len(WEIGHTS))]
    assert weights == list(WEIGHTS.values())
    assert tuple(node.name for node in graph.input) == MENU, "the network's; trees read features alone"
    assert {"TreeEnsembleRegressor", "Softmax"} <= {node.op_type for node in graph.node}


@pytest.mark.parametrize("kind", KINDS)
def test_six_processes_answer_what_one_does(models: Models, answers: Answers, kind: TargetKind) -> None:
    check_equal(models, *answers[kind])


class ForgetfulALS(ALSChannel):
    """One that takes each user for somebody with the latest events only."""

    def influence(self, history: History) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return super().influence(history.last(5))


class ForgetfulNetwork(Ranker):
    """One whose network sees nobody's history; its features are right."""

    def _feed(self, query: RankQuery) -> Feed:
        feed = super()._feed(query)
        return {**feed, "history_mask": np.zeros_like(feed["history_mask"])}


def other_als(models: Models, folder: Path, scratch: Path) -> Models:
    """The channel als answers differently."""
    others = [channel for channel in models.channels if channel.name != "als"]
    return replace(models, channels=[*others, ForgetfulALS.open(folder)])


def other_ratings(models: Models, folder: Path, scratch: Path) -> Models:
    """The predicted rating is that of other items."""
    store = FeatureStore.open(folder)
    assert store.rating is not None
    rating = replace(store.rating, biases=np.roll(store.rating.biases, 1))
    return replace(models, ranker=Ranker(replace(store, rating=rating), open_graph(folder / GRAPH_FILE)))


def other_weights(models: Models, folder: Path, scratch: Path) -> Models:
    """The network counts for less than the trees."""
    graph = onnx.load(folder / GRAPH_FILE)
    (weight,) = [constant for constant in graph.graph.initializer if constant.name == "weight1"]
    weight.CopyFrom(numpy_helper.from_array(np.asarray(0.9 * WEIGHTS["network"], np.float32), weight.name))
    onnx.save(graph, scratch / "ranker.onnx")
    return replace(models, ranker=Ranker(FeatureStore.open(folder), open_graph(scratch / "ranker.onnx")))


def other_histories(models: Models, folder: Path, scratch: Path) -> Models:
    """The ranker's network alone sees other histories."""
    return replace(models, ranker=ForgetfulNetwork.open(folder))


@pytest.mark.parametrize("broken", [other_als, other_ratings, other_weights, other_histories])
def test_one_broken_part_is_seen(
    models: Models, bundle: Bundle, answers: Answers, broken: Callable[[Models, Path, Path], Models], tmp_path: Path
) -> None:
    targets, answered = answers["all"]
    found = parity(broken(models, bundle.folder, tmp_path), answered, targets)
    assert found.equal_lists < 0.5, found


def test_re_ranked_lists_are_equal_too(blend: Workflow, gateway: str, answers: Answers) -> None:
    """The servers move to a second bundle, which has nothing new but the bonuses of items and the policy."""
    wanted = RerankConfig(exposure=3.0, genre_calibration=2.0, users=60, sweeps=10)
    workflow = published(blend.config.model_copy(update={"rerank": wanted}))
    version = workflow.config.store("evaluation").release().current
    serving = partial(active_version, gateway, timeout=PATIENCE_SECONDS)
    eventually(lambda: serving() == version, f"the gateway serves {version}")
    models, (targets, _) = workflow.models(), answers["all"]
    answered = replayed(workflow, gateway, targets, "all")
    check_equal(models, targets, answered)
    assert parity(replace(models, reranker=None), answered, targets).equal_entries < 0.99, "a broken one is seen"
