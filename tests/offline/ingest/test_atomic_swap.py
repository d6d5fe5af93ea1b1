"""A folder of tables is replaced as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.ingest.atomic_swap import new_version, versions
from recsys.errors import DataError


def _write(tables: Path, content: str) -> None:
    with new_version(tables) as folder:
        (folder / "a.txt").write_text(content)


def _write_half(tables: Path) -> None:
    with new_version(tables) as folder:
        (folder / "a.txt").write_text("half")
        (folder / "nowhere").read_text()


def test_readers_see_the_newest_and_the_one_before_stays(tmp_path: Path) -> None:
    tables = tmp_path / "ml" / "tables"
    for content in ("one", "two", "three"):
        _write(tables, content)
        assert (tables / "a.txt").read_text() == content
    assert [(path / "a.txt").read_text() for path in versions(tables)] == ["two", "three"]


def test_a_failure_changes_nothing(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    _write(tables, "good")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        _write_half(tables)
    assert (tables / "a.txt").read_text() == "good"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / ".tables.new-1"
    stale.mkdir()
    (stale / "spool.bin").write_text("x")
    _write(tmp_path / "tables", "good")
    assert not stale.exists()


def test_a_plain_folder_is_taken_over(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    (tables / "a.txt").write_text("old")
    _write(tables, "new")
    assert (tables / "a.txt").read_text() == "new"
    assert [(path / "a.txt").read_text() for path in versions(tables)] == ["old", "new"]


def test_two_jobs_on_the_same_tables_are_refused(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    with (
        new_version(tables) as folder,
        pytest.raises(DataError, match="another ingest is writing"),
        new_version(tables),
    ):
        pass
    assert not folder.exists()
    assert tables.is_dir()
