"""The benchmark of samples clears a folder only where it has made it."""

import subprocess
import sys
from pathlib import Path

import pytest
import samples

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
    monkeypatch.setattr(samples, "write_samples", lambda _, source, *__, **___: asked.append(source.config))
    monkeypatch.setattr(sys, "argv", ["samples.py", "--rows", "300", "--root", str(tmp_path / "new"), *flags])
    samples.main()
    assert [(config.candidates, config.negatives) for config in asked] == [(expected, 9)]
