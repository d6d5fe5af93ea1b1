"""What rows of the bench cost: CPU time and memory of steps and of all that they continue from, each once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from offline.steps.cost import Meter
from offline.steps.workspace import Step, Workspace
from offline.studies.benchmark.costs import cost_of


def test_a_meter_counts_cpu_time_and_the_peak_also_where_meters_nest() -> None:
    with Meter() as outer:
        held = np.ones(30 << 20, np.uint8)
        del held
        with Meter() as inner:
            sum(range(400_000))
    assert outer.cost.cpu_seconds >= inner.cost.cpu_seconds > 0
    assert outer.cost.peak_memory_bytes >= inner.cost.peak_memory_bytes > 1 << 20


def test_a_step_costs_what_it_and_its_inputs_cost_each_once(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")

    def make(name: str, seconds: float, inputs: list[Step]) -> Step:
        step = workspace.run(name, lambda folder: (folder / "x").write_text(name), inputs=inputs)
        receipt = json.loads((step.folder / "step.json").read_text())
        assert set(receipt) >= {"cpu_seconds", "peak_memory_bytes"}
        receipt |= {"cpu_seconds": seconds, "peak_memory_bytes": int(seconds)}
        (step.folder / "step.json").write_text(json.dumps(receipt))
        return step

    shared = make("catalogue", 1.0, [])
    one, other = make("itemcf", 10.0, [shared]), make("als", 100.0, [shared])
    last = make("ranker", 1_000.0, [one, other])
    assert cost_of([one]).cpu_seconds == 11.0
    assert (cost_of([last]).cpu_seconds, cost_of([last]).peak_memory_bytes) == (1_111.0, 1_000)
    workspace.release()


def test_towers_cost_what_the_cutoffs_cost_that_they_continue_from(tmp_path: Path) -> None:
    """The towers of T2 continue from those of T1, these from a window's. Another channel of T1 costs them nothing, nor
    do the tables; each catalogue counts once."""
    workspace = Workspace(tmp_path / "work")

    def make(name: str, seconds: float, inputs: list[Step], cutoff: int = 0) -> Step:
        step = workspace.run(name, lambda folder: None, inputs=inputs, facts=cutoff)
        receipt = json.loads((step.folder / "step.json").read_text())
        receipt |= {"cpu_seconds": seconds, "peak_memory_bytes": 1}
        (step.folder / "step.json").write_text(json.dumps(receipt))
        return step

    tables = make("tables", 10_000.0, [])
    first, second, third = (make("catalogue", 1.0, [tables], cutoff) for cutoff in (1, 2, 3))
    window = make("two-tower", 100.0, [first])
    make("itemcf", 1_000.0, [second])
    continued = make("two-tower", 20.0, [second, window])
    towers = make("two-tower", 30.0, [third, continued])
    assert cost_of([window]).cpu_seconds == 101.0
    assert cost_of([towers]).cpu_seconds == 3 * 1.0 + 100.0 + 20.0 + 30.0
    assert cost_of([towers, continued]).cpu_seconds == cost_of([towers]).cpu_seconds
    workspace.release()
