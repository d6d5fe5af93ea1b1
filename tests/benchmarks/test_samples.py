"""The benchmark of samples: what it clears, what it asks for, and what it says of what was on disk."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import samples

from offline.samples.arrays import SampleHistories, Samples

ROOT = Path(__file__).parents[2]


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
        samples.clear(tmp_path / "samples" / "thesis.txt")


def test_its_own_folder_is_cleared(tmp_path: Path) -> None:
    root = tmp_path / "new"
    for _ in range(2):
        samples.clear(root)
        assert [path.name for path in root.iterdir()] == [samples.MARKER]
        (root / samples.MODELS / "rank").mkdir(parents=True)
        (root / samples.SAMPLES).mkdir()
    empty = tmp_path / "empty"
    empty.mkdir()
    samples.clear(empty)
    assert (empty / samples.MARKER).is_file()


@pytest.mark.parametrize(("flags", "expected"), [([], "all"), (["--candidates", "mixed"], "mixed")])
def test_the_candidates_that_are_asked_for_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], expected: str
) -> None:
    asked = []
    monkeypatch.setattr(samples, "prepare", lambda folder: None)
    monkeypatch.setattr(samples, "report", lambda *_: None)
    monkeypatch.setattr(samples.Part, "of", lambda _: samples.Part(300, 90, 1, 1_000, "digest"))
    monkeypatch.setattr(samples, "write_samples", lambda _, source, *__, **___: asked.append(source.config))
    monkeypatch.setattr(sys, "argv", ["samples.py", "--rows", "300", "--root", str(tmp_path / "new"), *flags])
    samples.main()
    assert [(config.candidates, config.negatives) for config in asked] == [(expected, 9)]


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
    parts = []
    for name, label in (("a", 1), ("b", 1), ("c", 0)):
        small(label).save(tmp_path / name)
        parts.append(samples.Part.of(tmp_path / name))
    assert (parts[0].rows, parts[0].columns, parts[0].requests) == (2, 3, 1)
    assert parts[0].size == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())
    assert parts[0] == parts[1]
    assert parts[2].digest != parts[0].digest, "one label is another"
