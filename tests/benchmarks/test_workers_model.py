"""The arithmetic of the table of workers."""

from __future__ import annotations

import pytest
from workers import by_role, model, unevenness


def test_the_model_gives_each_role_the_processes_that_its_share_needs() -> None:
    plan = model(4, {"gateway": 1.5, "rank": 0.5}, {"gateway": 50.0, "rank": 60.0})
    assert plan.per_second == pytest.approx(0.8 * 4 / 0.002)
    assert plan.processes == {"gateway": 3, "rank": 1}
    assert plan.mib == 3 * 50 + 60


def test_a_process_is_compared_with_the_others_of_its_role() -> None:
    values = {"rank-1": 3.0, "rank-2": 2.0, "gateway-1": 4.0, "gateway-2": 4.0, "vector": 9.0}
    assert by_role(values) == {"rank": [3.0, 2.0], "gateway": [4.0, 4.0], "vector": [9.0]}
    assert unevenness(values) == pytest.approx(0.2)
    assert unevenness({"rank": 1.0}) == 0
