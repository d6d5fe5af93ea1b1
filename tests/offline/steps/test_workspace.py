"""A step runs again exactly when something it depends on changed, and a killed one leaves nothing that looks done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from pydantic import BaseModel

from offline.steps.code import code_digest
from offline.steps.workspace import RECEIPT, Step, Workspace, step_key
from recsys.errors import DataError

KILLED_ONCE = """
import os, signal, sys
from pathlib import Path
from offline.steps.workspace import Workspace

def make(folder):
    half = folder / "half"
    if half.exists():
        half.write_text(f"{half.read_text()}, then whole")
    else:
        half.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

Workspace(Path(sys.argv[1])).run("train", make)
"""


class Settings(BaseModel):
    epochs: int = 1


@dataclass
class Count:
    """A step's work: writes one file, and counts how often it was asked to."""

    runs: int = 0

    def __call__(self, folder: Path) -> None:
        self.runs += 1
        (folder / "out.txt").write_text(f"run {self.runs}")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


def _key(
    name: str = "train",
    *,
    config: BaseModel | None = None,
    facts: object = None,
    inputs: Sequence[Step] = (),
    code: str = "",
) -> str:
    return step_key(name, config=config, facts=facts, inputs=inputs, code=code)


def _step(key: str) -> Step:
    return Step("tables", key, Path("anywhere"), reused=False)


def test_the_key_is_the_same_in_every_process() -> None:
    code = (
        "from offline.steps import workspace as steps\n"
        "print(steps.step_key('a', config=None, facts={'b': 1, 'a': 2}, inputs=(), code='c'))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop().strip()) == 16


def test_the_key_changes_with_everything_the_step_depends_on() -> None:
    keys = [
        _key(),
        _key("evaluate"),
        _key(config=Settings()),
        _key(config=Settings(epochs=2)),
        _key(facts={"cutoff": 1}),
        _key(facts={"cutoff": 2}),
        _key(inputs=[_step("a")]),
        _key(inputs=[_step("b")]),
        _key(inputs=[_step("a"), _step("b")]),
        _key(inputs=[_step("b"), _step("a")]),
        _key(code="a digest"),
        _key(code="another digest"),
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_change_with_what_does_not_matter() -> None:
    assert _key(facts={"a": 1, "b": 2}) == _key(facts={"b": 2, "a": 1})
    assert _key(config=Settings()) == _key(config=Settings(epochs=1))
    elsewhere = Step("tables", "a", Path("elsewhere"), reused=True)
    assert _key(inputs=[_step("a")]) == _key(inputs=[elsewhere])


def test_a_step_runs_once(workspace: Workspace) -> None:
    make = Count()
    first = workspace.run("train", make, config=Settings())
    again = Workspace(workspace.root).run("train", make, config=Settings())
    assert (first.reused, again.reused, make.runs) == (False, True, 1)
    assert (again.key, again.folder) == (first.key, first.folder)
    assert first.folder == workspace.root / f"train-{first.key}"
    assert sorted(path.name for path in first.folder.iterdir()) == ["out.txt", RECEIPT]


def test_what_is_given_is_made_only_for_a_step_that_is_run(workspace: Workspace) -> None:
    made: list[str] = []

    def large() -> str:
        made.append("made")
        return "large"

    for _ in range(2):
        step = workspace.run("train", partial(_write, end="!"), given=large)
    assert made == ["made"]
    assert (step.folder / "out.txt").read_text() == "large!"


def _write(text: str, folder: Path, *, end: str) -> None:
    (folder / "out.txt").write_text(text + end)


def test_a_changed_setting_runs_the_step_and_those_that_read_it(workspace: Workspace) -> None:
    train, evaluate = Count(), Count()
    for epochs in (1, 2, 1):
        trained = workspace.run("train", train, config=Settings(epochs=epochs))
        workspace.run("evaluate", evaluate, inputs=[trained])
    assert (train.runs, evaluate.runs) == (2, 2)


def test_the_receipt_says_what_the_step_was_made_of(workspace: Workspace) -> None:
    tables = workspace.run("tables", Count())
    trained = workspace.run("train", Count(), inputs=[tables])
    receipt = json.loads((trained.folder / RECEIPT).read_text())
    assert receipt["seconds"] >= 0
    assert {name: receipt[name] for name in ("name", "key", "inputs")} == {
        "name": "train",
        "key": trained.key,
        "inputs": [f"tables-{tables.key}"],
    }


def test_a_failed_step_leaves_nothing_that_looks_finished(workspace: Workspace) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        workspace.run("train", fail)
    assert [path.name for path in workspace.root.iterdir()] == [f".train-{_key(code=code_digest([Count]))}"]
    make = Count()
    assert workspace.run("train", make).reused is False
    assert make.runs == 1


def test_a_killed_step_is_resumed_where_it_was(workspace: Workspace, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(KILLED_ONCE)
    command = [sys.executable, str(script), str(workspace.root)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    [half] = workspace.root.iterdir()
    assert half.name.startswith(".train-")
    subprocess.run(command, check=True)
    [whole] = workspace.root.iterdir()
    assert whole.name == half.name.removeprefix(".")
    assert (whole / "half").read_text() == "half, then whole"


def test_a_folder_without_a_receipt_is_made_again(workspace: Workspace) -> None:
    step = workspace.run("train", Count())
    (step.folder / RECEIPT).unlink()
    (step.folder / "stray").write_text("from a copy that broke off")
    again = workspace.run("train", Count())
    assert again.reused is False
    assert sorted(path.name for path in again.folder.iterdir()) == ["out.txt", RECEIPT]


def test_prune_keeps_what_this_run_made_or_used(workspace: Workspace) -> None:
    kept, outdated = workspace.run("train", Count()), workspace.run("train", Count(), config=Settings())
    abandoned = workspace.root / ".train-abandoned"
    abandoned.mkdir()
    (workspace.root / "notes.txt").write_text("a file of somebody's")
    later = Workspace(workspace.root)
    later.run("train", Count())
    made = later.run("evaluate", Count())
    later.prune()
    assert sorted(path.name for path in workspace.root.iterdir()) == sorted(
        [kept.folder.name, made.folder.name, "notes.txt"]
    )
    assert not outdated.folder.exists()


def test_prune_keeps_a_half_made_step_of_this_run(workspace: Workspace) -> None:
    """What was learned before an error is there for the next run, even where the caller tidies up."""

    def fail(folder: Path) -> None:
        (folder / "checkpoint").write_text("epoch 3")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        workspace.run("train", fail)
    workspace.prune()
    assert (workspace.root / f".train-{_key(code=code_digest([Count]))}" / "checkpoint").read_text() == "epoch 3"


HOLDER = """
import sys
from pathlib import Path
from offline.steps.workspace import Workspace
Workspace(Path(sys.argv[1])).run("first", lambda folder: (folder / "x").touch())
print("holding", flush=True)
sys.stdin.read()
"""


def test_two_commands_never_work_in_one_workspace(tmp_path: Path) -> None:
    script = tmp_path / "holder.py"
    script.write_text(HOLDER)
    held = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "work")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with held:
        assert held.stdout is not None
        assert held.stdin is not None
        assert held.stdout.readline() == "holding\n"
        workspace = Workspace(tmp_path / "work")
        with pytest.raises(DataError, match="another offline command is at work"):
            workspace.run("second", lambda folder: (folder / "y").touch())
        held.stdin.close()
        held.wait(120)
    workspace.run("second", lambda folder: (folder / "y").touch())
    workspace.release()
