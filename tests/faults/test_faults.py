"""Ordinary faults around the servers cost what they may cost, and lose nothing: seconds of each, see `make faults`.

Here are those that no other test causes. Signals at servers are in tests/integration/test_faults.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.catalogue import FAULTS
from tests.faults.contract import Allowed, Row
from tests.faults.runner import SHORT, run_fault

pytestmark = [pytest.mark.integration, pytest.mark.alone]


@pytest.mark.parametrize("name", ["log-readers-stop", "log-disk-full", "events-locked"])
def test_a_fault_costs_what_it_may(name: str, checkerboard_store: Path, tmp_path: Path) -> None:
    row = run_fault(FAULTS[name], checkerboard_store, tmp_path / name, SHORT)
    if row.not_possible:
        pytest.skip(row.not_possible)
    assert row.problems == [], row
    assert row.requests > 0
    assert row.events > 0


def test_every_broken_bar_is_named() -> None:
    row = Row("name", "about", failed=3, outage_seconds=2.5, late=1, lost=1, doubled=2, recovery_seconds=31.0)
    row.rss_growth = 1.6
    row.judge(Allowed(outage_seconds=2.0, memory=1.5))
    assert row.problems == [
        "3 failed over 2.5 s, allowed 2 s",
        "1 late",
        "1 events lost",
        "2 events doubled",
        "recovery took 31.0 s, allowed 30 s",
        "memory grew 1.60 times",
    ]


def test_what_is_allowed_is_no_problem() -> None:
    row = Row("name", "about", failed=3, outage_seconds=1.5, late=1, unacknowledged=4, recovery_seconds=3.0)
    row.judge(Allowed(outage_seconds=2.0, late=True))
    assert row.problems == []
