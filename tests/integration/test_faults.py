"""Killing and stopping servers costs no request: the answer degrades, says so, and heals without a hand."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from offline.workflow import Workflow
from recsys.cluster import LocalCluster
from tests.integration.faults import ROLES, Phases, run_fault, started

pytestmark = [pytest.mark.integration]

PHASES = Phases(before=1.0, fault=1.5, healing=5.5, after=1.0)


@pytest.fixture(scope="module")
def cluster(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, str]]:
    """The five servers on the small production bundle."""
    root = trained.config.store("production").root
    running, target = started(root, tmp_path_factory.mktemp("faults") / "run")
    yield running, target
    codes = running.stop()
    assert set(codes.values()) == {0}, codes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
@pytest.mark.parametrize("role", ROLES)
def test_a_lost_server_costs_only_itself(cluster: tuple[LocalCluster, str], role: str, number: signal.Signals) -> None:
    running, target = cluster
    outcome = asyncio.run(run_fault(running, target, role, number, PHASES))
    assert outcome.failed == []
    assert outcome.latency["p100"] < 1_000.0, outcome
    assert outcome.degraded_before == 0, outcome
    assert outcome.degraded_during > 0, outcome
    assert outcome.degraded_after == 0, outcome
