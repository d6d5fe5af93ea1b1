"""Replay through five processes finds the lists that evaluate makes in one, because both run the same code.

Each test that holds the equality has a twin that breaks one thing on purpose and must see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from offline.agreement import Agreement, compare
from offline.evaluate import Models, served_lists
from offline.local import served
from offline.replay import PacingConfig, Replayed, active_version, replay
from offline.targets import TargetKind, Targets
from offline.workflow import Workflow
from rank_server.scoring import GRAPH_FILE, Ranker, open_session
from recall_server.channels.vector import VectorChannel
from recsys.errors import BundleMismatch
from recsys.features import FeatureStore

pytestmark = [pytest.mark.integration]

MOST_REQUESTS = 300
PACING = PacingConfig(in_flight=2, deadline_seconds=60.0)
PATIENT = {"budget-seconds": "30", "probe-timeout-seconds": "5"}
"""What a busy machine does to the time of an answer is no matter of equality."""


@pytest.fixture(scope="module")
def gateway(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The five servers on the evaluation bundle."""
    folder = tmp_path_factory.mktemp("equality")
    with served(trained.config.store("evaluation"), folder=folder, gateway_settings=PATIENT) as address:
        yield address


@pytest.fixture(scope="module")
def models(trained: Workflow) -> Models:
    """The same bundle's models in this process."""
    return trained.models()


def first(targets: Targets, n: int) -> Targets:
    """The first `n` requests."""
    relevant = replace(
        targets.relevant,
        indptr=targets.relevant.indptr[: n + 1],
        item_ids=targets.relevant.item_ids[: targets.relevant.indptr[min(n, len(targets))]],
    )
    return Targets(targets.requests[:n], targets.user_ids[:n], targets.warm[:n], relevant)


def replayed(workflow: Workflow, address: str, targets: Targets, kind: TargetKind) -> Replayed:
    bundle = workflow.config.store("evaluation").open(active_version(address))
    start = int(workflow.split.test_events.timestamps[0])
    return replay(address, targets, kind=kind, bundle=bundle, first_event=start, config=PACING)


def agreement(models: Models, answers: Replayed, targets: Targets) -> Agreement:
    return compare(served_lists(models, targets), answers.lists, targets)


@pytest.mark.parametrize("kind", ["all", "successive"])
def test_five_processes_answer_what_one_does(trained: Workflow, gateway: str, models: Models, kind: TargetKind) -> None:
    targets = first(trained.test_targets(kind), MOST_REQUESTS)
    answers = replayed(trained, gateway, targets, kind)
    assert answers.latency.errors == {}
    assert answers.latency.degraded == 0
    found = agreement(models, answers, targets)
    assert found.equal_lists == 1.0, found
    assert found.score_difference <= 1e-5, found
    assert found.ndcg_difference == 0.0


def test_a_broken_feature_is_seen(trained: Workflow, gateway: str, models: Models) -> None:
    targets = first(trained.test_targets("all"), MOST_REQUESTS)
    folder = trained.config.store("evaluation").open(active_version(gateway)).folder
    store = FeatureStore.open(folder)
    broken = replace(store, items=np.roll(store.items, 1, axis=0))
    wrong = replace(models, ranker=Ranker(broken, open_session(folder / GRAPH_FILE)))
    assert trained.policy.ranking == "ranked"
    assert agreement(wrong, replayed(trained, gateway, targets, "all"), targets).equal_entries < 0.99


def test_a_broken_seen_filter_is_seen(trained: Workflow, gateway: str, models: Models) -> None:
    targets = first(trained.test_targets("all"), MOST_REQUESTS)
    unfiltered = [replace(request, history=request.history.take(slice(0, 0))) for request in targets.requests]
    assert all(len(request.history) == 0 for request in unfiltered)
    wrong = served_lists(models, replace(targets, requests=unfiltered))
    answers = replayed(trained, gateway, targets, "all")
    assert compare(wrong, answers.lists, targets).equal_entries < 0.99


def test_a_bundle_that_knows_the_future_is_refused(trained: Workflow, gateway: str) -> None:
    targets = first(trained.test_targets("all"), 1)
    store = trained.config.store("production")
    production = store.open(store.release().current)
    start = int(trained.split.test_events.timestamps[0])
    with pytest.raises(BundleMismatch, match="serve the evaluation bundle"):
        replay(gateway, targets, kind="all", bundle=production, first_event=start, config=PACING)


def test_the_index_finds_what_exact_search_finds(trained: Workflow, models: Models) -> None:
    """Small catalogues are always searched exactly; here the index is forced."""
    targets = first(trained.test_targets("all"), MOST_REQUESTS)
    folder = trained.config.store("evaluation").open(trained.config.store("evaluation").release().current).folder
    others = [channel for channel in models.channels if channel.name != "vector"]
    exact = replace(models, channels=[*others, VectorChannel.open(folder, exact=True)])
    indexed = replace(models, channels=[*others, VectorChannel.open(folder, exact_rows=0)])
    found = compare(served_lists(exact, targets), served_lists(indexed, targets), targets)
    assert found.equal_entries >= 0.99, found
    assert found.ndcg_difference <= 0.002, found
