"""Replay through five processes finds the lists that evaluate makes in one, because both run the same code.

Each test that holds the equality has a twin that breaks one thing on purpose and must see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from offline.commands.cli import main
from offline.evaluation.evaluate import Models, served_lists
from offline.evaluation.parity import Parity, compare
from offline.evaluation.replay import PacingConfig, Replayed, active_version, replay
from offline.local.cluster import LocalCluster
from offline.local.ports import Ports
from offline.local.programs import programs
from offline.local.serve import HEALTHY_SECONDS, served
from offline.protocols.targets import TargetKind, Targets
from offline.workflow.workflow import Workflow
from rank_server.graphs import open_graph
from rank_server.scoring import GRAPH_FILE, Ranker
from recall_server.channels.vector import VectorChannel
from recsys.domain import NO_IDS, History
from recsys.errors import BundleMismatch
from recsys.features import FeatureStore
from recsys.features.items import ITEM_NAMES
from tests.integration.conftest import QUICK
from tests.recall_server.indexes import always_by_index

pytestmark = [pytest.mark.integration]

MAX_REQUESTS = 300
PACING = PacingConfig(in_flight=2, deadline_seconds=60.0)
IN_FLIGHT = (1, 32)
"""One request at a time, and as many as fill the batches of the gateway."""
PATIENT = {"budget-seconds": "30", "probe-timeout-seconds": "5"}
"""What a busy machine does to the time of an answer is no matter of equality."""
WEIGHTY = "item_returning_all"
"""A feature that the small system's ranker looks at in every request; most it never looks at."""
Asked = Callable[..., tuple[Targets, Replayed]]


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


@pytest.fixture(scope="module")
def asked(trained: Workflow, gateway: str) -> Asked:
    """Targets of a kind, and what the five servers answered to them: each question is asked once."""

    @cache
    def ask(kind: TargetKind, in_flight: int) -> tuple[Targets, Replayed]:
        targets = first(trained.test_targets(kind), MAX_REQUESTS)
        return targets, replayed(trained, gateway, targets, kind, in_flight=in_flight)

    return ask


@pytest.fixture(scope="module")
def arguments(trained: Workflow) -> list[str]:
    """Those of a verb for the small system, patient with the servers."""
    config = trained.config
    places = ["--dataset", config.dataset, "--data-dir", str(config.data_dir), "--root", str(config.root)]
    patience = [f"--pacing.{name.replace('_', '-')}={value}" for name, value in PACING.model_dump().items()]
    return [*places, *QUICK, *patience, "--bootstrap.resamples=10"]


def first(targets: Targets, n: int) -> Targets:
    """The first `n` requests."""
    relevant = replace(
        targets.relevant,
        indptr=targets.relevant.indptr[: n + 1],
        item_ids=targets.relevant.item_ids[: targets.relevant.indptr[min(n, len(targets))]],
    )
    return Targets(targets.requests[:n], targets.user_ids[:n], targets.warm[:n], relevant)


def replayed(
    workflow: Workflow, address: str, targets: Targets, kind: TargetKind, *, in_flight: int = IN_FLIGHT[-1]
) -> Replayed:
    bundle = workflow.config.store("evaluation").open(active_version(address))
    start = int(workflow.split.test_events.timestamps[0])
    pacing = PACING.model_copy(update={"in_flight": in_flight})
    return replay(address, targets, kind=kind, bundle=bundle, first_event=start, config=pacing)


def parity(models: Models, answers: Replayed, targets: Targets) -> Parity:
    return compare(served_lists(models, targets), answers.lists, targets)


@pytest.mark.parametrize("in_flight", IN_FLIGHT)
@pytest.mark.parametrize("kind", get_args(TargetKind))
def test_five_processes_answer_what_one_does(asked: Asked, models: Models, kind: TargetKind, in_flight: int) -> None:
    """To the last bit of every score, one request at a time and many."""
    targets, answers = asked(kind, in_flight)
    assert answers.latency.errors == {}
    assert answers.latency.degraded == 0
    found = parity(models, answers, targets)
    assert found.equal_lists == 1.0, found
    assert found.score_difference == 0.0, found
    assert found.ndcg_difference == 0.0


def test_one_broken_feature_is_seen(trained: Workflow, gateway: str, models: Models, asked: Asked) -> None:
    targets, answers = asked("all", IN_FLIGHT[-1])
    folder = trained.config.store("evaluation").open(active_version(gateway)).folder
    store, column = FeatureStore.open(folder), ITEM_NAMES.index(WEIGHTY)
    items = store.items.copy()
    items[:, column] = np.roll(items[:, column], 1)
    wrong = replace(models, ranker=Ranker(replace(store, items=items), open_graph(folder / GRAPH_FILE)))
    assert trained.ranking.policy.ranking == "ranked"
    assert parity(wrong, answers, targets).equal_entries < 0.99


def test_a_broken_seen_filter_is_seen(models: Models, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process only, and nothing else: channels and features see the same histories."""
    targets, answers = asked("all", IN_FLIGHT[-1])
    monkeypatch.setattr(History, "seen_item_ids", lambda history: NO_IDS)
    assert parity(models, answers, targets).equal_entries < 0.99


def test_the_verb_says_that_all_positions_are_equal(
    trained: Workflow, gateway: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["replay", "--target", gateway, *arguments])
    printed = capsys.readouterr().out
    assert f"bundle {active_version(gateway)}, through {gateway}\nsmall, targets all, " in printed
    assert f"\n{len(trained.test_targets('all'))} requests, " in printed
    assert "0 failed, 0 degraded" in printed
    assert "100.00% of the first ten positions are equal" in printed


def test_the_verb_refuses_a_gateway_that_knows_the_future(
    trained: Workflow, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gateway alone says which bundle it serves; nothing is asked of the others."""
    store, ports = trained.config.store("production"), Ports.free()
    servers = programs(store.root.absolute(), tmp_path / "events", ports)
    with LocalCluster([server for server in servers if server.name == "gateway"], tmp_path / "logs") as cluster:
        cluster.wait_healthy(HEALTHY_SECONDS)
        with pytest.raises(SystemExit) as end:
            main(["replay", "--target", ports.target("gateway"), *arguments])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert f"error: bundle {store.release().current} (production) has seen everything up to " in printed
    assert "serve the evaluation bundle" in printed


def test_a_bundle_that_knows_the_future_is_refused(trained: Workflow, gateway: str) -> None:
    targets = first(trained.test_targets("all"), 1)
    store = trained.config.store("production")
    production = store.open(store.release().current)
    start = int(trained.split.test_events.timestamps[0])
    with pytest.raises(BundleMismatch, match="serve the evaluation bundle"):
        replay(gateway, targets, kind="all", bundle=production, first_event=start, config=PACING)


def test_the_index_finds_what_exact_search_finds(trained: Workflow, models: Models) -> None:
    """Small catalogues are always searched exactly; here the index is forced."""
    targets = first(trained.test_targets("all"), MAX_REQUESTS)
    folder = trained.config.store("evaluation").open(trained.config.store("evaluation").release().current).folder
    others = [channel for channel in models.channels if channel.name != "vector"]
    exact = replace(models, channels=[*others, VectorChannel.open(folder, exact=True)])
    indexed = replace(models, channels=[*others, always_by_index(VectorChannel.open(folder))])
    found = compare(served_lists(exact, targets), served_lists(indexed, targets), targets)
    assert found.equal_entries >= 0.99, found
    assert found.ndcg_difference <= 0.002, found
