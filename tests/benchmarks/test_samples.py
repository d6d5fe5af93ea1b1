"""The benchmark of samples: what it clears, what it asks for, and what it says of what was on disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import samples

from offline.protocols.targets import Targets
from offline.ranking.samples import SampleInputs, SamplesConfig
from offline.ranking.samples.arrays import SampleHistories, Samples
from offline.steps.workspace import Workspace

ROOT = Path(__file__).parents[2]
BLOCK_ROWS = samples.BLOCK * samples.POLICY.rank_count
"""Rows of a part of one block."""


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    """From its command line, before anything is trained."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "thesis.txt").write_text("years of work")
    command = [sys.executable, "benchmarks/samples.py", "--rows", "1", "--root", str(tmp_path)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert finished.stderr.strip() == (
        f"{tmp_path}: there is something, and not from an earlier run of this; name another --root"
    )
    assert (tmp_path / "samples" / "thesis.txt").read_text() == "years of work"
    with pytest.raises(SystemExit, match=r"thesis\.txt: there is something"):
        samples.claim(tmp_path / "samples" / "thesis.txt")


def test_a_new_an_empty_and_its_own_folder_are_taken(tmp_path: Path) -> None:
    (empty := tmp_path / "empty").mkdir()
    for root in (tmp_path / "new", empty):
        workspace = samples.claim(root)
        workspace.mkdir()
        (workspace / "part").touch()
        assert samples.claim(root) == workspace
        assert sorted(path.name for path in root.iterdir()) == [samples.MARKER, "work"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[SamplesConfig, int]]]:
    """What the benchmark asks for, with its number of requests, instead of samples that take long."""
    asked: list[tuple[SamplesConfig, int]] = []
    held: list[Workspace] = []

    def write(folder: Path, source: SampleInputs, blocks: Iterable[Targets], **_: object) -> None:
        asked.append((source.config, sum(len(block) for block in blocks)))
        small(label=1).save(folder)

    def workspace(root: Path) -> Workspace:
        held.append(Workspace(root))
        return held[-1]

    monkeypatch.setattr(samples, "prepare", lambda folder: None)
    monkeypatch.setattr(samples, "write_samples", write)
    monkeypatch.setattr(samples, "Workspace", workspace)
    yield asked
    for one in held:
        one.release()


def run(monkeypatch: pytest.MonkeyPatch, root: Path, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["samples.py", "--root", str(root), *flags])
    samples.main()


@pytest.mark.parametrize(("flags", "expected"), [([], "all"), (["--candidates", "mixed"], "mixed")])
def test_the_candidates_that_are_asked_for_are_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick: list[tuple[SamplesConfig, int]],
    flags: list[str],
    expected: str,
) -> None:
    run(monkeypatch, tmp_path / "new", "--rows", "300", *flags)
    assert [(config.candidates, config.negatives, requests) for config, requests in quick] == [(expected, 9, 1)]
    assert len(list((tmp_path / "new").rglob("features.npy"))) == 1, "all in one part stays to be looked at"


def test_a_killed_run_goes_on_with_its_part(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quick: list[tuple[SamplesConfig, int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--rows", str(3 * BLOCK_ROWS), "--at-once", str(BLOCK_ROWS)]
    write, calls = samples.write_samples, []

    def killed(*arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments, **options)

    monkeypatch.setattr(samples, "write_samples", killed)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path / "new", *flags)
    assert len(quick) == 1
    capsys.readouterr()
    run(monkeypatch, tmp_path / "new", *flags)
    assert [requests for _, requests in quick] == [samples.BLOCK] * 3, "the first part is not made again"
    assert "6 rows of 3 features, 3 requests" in capsys.readouterr().out
    assert list((tmp_path / "new").rglob("*.npy")) == [], "parts are removed"


def test_in_parts_every_request_is_made_once() -> None:
    requests, block = 1_000, samples.BLOCK
    rows = requests * samples.POLICY.rank_count
    assert samples.plan(rows, 0) == [range(requests)]
    parts = samples.plan(rows, 2 * block * samples.POLICY.rank_count + 1)
    assert parts == [range(2 * block), range(2 * block, requests)]
    assert samples.plan(rows, 1)[0] == range(block), "a part is at least a block"
    made = [user for part in parts for targets in samples.blocks(part) for user in targets.user_ids.tolist()]
    assert made == list(range(requests))


def small(label: int) -> Samples:
    """One request of two candidates, the first of which is relevant where `label` is 1."""
    nothing = np.empty(0, np.float32)
    return Samples(
        np.ones((2, 3), np.float32),
        np.array([label, 0], np.int8),
        np.array([2]),
        np.array([1]),
        np.array([True]),
        np.array([4, 5], np.int32),
        np.full(2, np.nan, np.float32),
        SampleHistories(np.array([0, 0]), np.empty(0, np.int32), nothing, nothing),
    )


def test_a_part_is_what_is_on_disk(tmp_path: Path) -> None:
    def part(name: str, label: int) -> samples.Part:
        return samples.Part.made(tmp_path / name, lambda: small(label).save(tmp_path / name))

    first, same, other = part("a", 1), part("b", 1), part("c", 0)
    assert (first.rows, first.columns, first.requests) == (2, 3, 1)
    assert first.size == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert first.digest == same.digest
    assert other.digest != first.digest, "one label is another"
    assert first.seconds > 0
    assert first.peaks[0] > 1_000
