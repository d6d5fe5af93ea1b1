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

HANG_SECONDS = 2.0
PHASES = {
    signal.SIGKILL: Phases(before=1.0, healing=5.5, after=1.0),
    signal.SIGSTOP: Phases(before=1.0, healing=HANG_SECONDS + 6.5, after=1.0),
}


@pytest.fixture(scope="module")
def cluster(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, str]]:
    """The five servers on the small production bundle."""
    root = trained.config.store("production").root
    running, target = started(root, tmp_path_factory.mktemp("faults") / "run", hang_seconds=HANG_SECONDS)
    yield running, target
    codes = running.stop()
    assert set(codes.values()) == {0}, codes


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("number", list(PHASES), ids=["kill", "stop"])
def test_a_lost_server_costs_only_itself(cluster: tuple[LocalCluster, str], role: str, number: signal.Signals) -> None:
    running, target = cluster
    before = running.pids()
    outcome = asyncio.run(run_fault(running, target, role, number, PHASES[number]))
    assert outcome.failed == []
    assert outcome.late == 0, outcome
    assert outcome.degraded_before == 0, outcome
    assert outcome.degraded_during > 0, outcome
    assert outcome.degraded_after == 0, outcome
    assert [name for name, pid in running.pids().items() if pid != before[name]] == [role]
