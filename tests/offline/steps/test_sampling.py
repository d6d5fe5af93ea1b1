"""A step that uses a part of the data says so, and so does everything that is made from it."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest

from offline.steps.linking import link_folders
from offline.steps.sampling import note_sample, notes_in, samples_of
from offline.steps.workspace import Workspace


def _sample(folder: Path, *, what: str, used: int) -> None:
    (folder / "model").write_text("learned")
    note_sample(folder, what, used=used, of=2_000, unit="users")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


def test_a_sample_is_noted_and_logged(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    step = workspace.run("ranker", partial(_sample, what="ranker", used=1_500))
    assert notes_in(step.folder) == ["ranker: a sample, 1,500 of 2,000 users"]
    assert "ranker: a sample, 1,500 of 2,000 users" in caplog.messages


def test_nothing_is_noted_where_everything_is_used(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    step = workspace.run("ranker", partial(_sample, what="ranker", used=2_000))
    assert (notes_in(step.folder), samples_of([step.folder])) == ([], ())
    assert "sample" not in caplog.text


def test_what_is_made_from_it_tells_it_once(workspace: Workspace, tmp_path: Path) -> None:
    samples = workspace.run("samples", partial(_sample, what="ranker", used=1_500))
    blend = workspace.run("blend", partial(_sample, what="blend", used=9), inputs=[samples])
    ranker = workspace.run("train", partial(_sample, what="ranker", used=2_000), inputs=[samples, blend])
    expected = ("blend: a sample, 9 of 2,000 users", "ranker: a sample, 1,500 of 2,000 users")
    assert samples_of([ranker.folder]) == samples_of([blend.folder, ranker.folder]) == expected
    link_folders([samples.folder, ranker.folder], tmp_path / "both")
    assert [path.name for path in (tmp_path / "both").iterdir()] == ["model"], "the notes are no part of a bundle"
