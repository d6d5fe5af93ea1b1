"""Killing and stopping servers costs no request: the answer degrades, says so, and heals without a hand.

On a busy machine every answer may take long, so no clock on the wall tells what the lost server cost. The answers do:
each arrives long before its caller's deadline, the lost server alone is to blame in them, and once one request was
answered without asking it, or plenty waited in vain, none that is sent later waits for it: neither for a process that
is gone, nor for a stopped one that keeps its port, long before the watchdog kills it. The gateway's budget, and what is
late, leave room for pauses of a second; a gateway that waited for the stopped server as long as its caller does would
be late all the same.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from offline.local.cluster import LocalCluster
from offline.workflow.workflow import Workflow
from tests.integration.faults import ROLES, Terms, run_fault, stage_of, started

pytestmark = [pytest.mark.integration, pytest.mark.alone]

HANG_SECONDS = 10.0
"""Longer than requests take to run out of time three times, side by side, and to be answered without the server."""

REJOIN_SECONDS = 30.0
"""The gateway finds a healthy server within a probe, some tenths of a second; a machine may be slow, not this slow."""

GATEWAY_SETTINGS = {"budget-seconds": "3", "probe-timeout-seconds": "2"}
TERMS = Terms(quiet=1.0, deadline=12.0, late=6.0)


@pytest.fixture(scope="module")
def cluster(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, str]]:
    """The five servers on the small production bundle."""
    root, folder = trained.config.store("production").root, tmp_path_factory.mktemp("faults") / "run"
    running, target = started(root, folder, hang_seconds=HANG_SECONDS, gateway_settings=GATEWAY_SETTINGS)
    yield running, target
    codes = running.stop()
    assert set(codes.values()) == {0}, codes


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
def test_a_lost_server_costs_only_itself(cluster: tuple[LocalCluster, str], role: str, number: signal.Signals) -> None:
    running, target = cluster
    before = running.pids()
    outcome = asyncio.run(run_fault(running, target, role, number, TERMS))
    assert outcome.failed == []
    assert outcome.late == 0, outcome
    assert outcome.degraded_before == 0, outcome
    assert outcome.degraded_during > 0, outcome
    assert outcome.blamed == {stage_of(role)}, outcome
    assert outcome.skipped > 0, outcome
    assert outcome.waited == 0, outcome
    assert outcome.spared > 0 or number == signal.SIGKILL, outcome
    assert outcome.rejoin_seconds < REJOIN_SECONDS, outcome
    assert outcome.degraded_after == 0, outcome
    assert [name for name, pid in running.pids().items() if pid != before[name]] == [role]
