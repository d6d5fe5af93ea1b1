"""The trial of the images, with programs of this machine in place of containers."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from recsys.channels import CHANNELS, DEFAULT_CHANNELS
from tests.published import publish_checkerboard
from tests.waiting import PATIENCE_SECONDS

TARGETS = {**{f"recall-{name}": name for name in CHANNELS}, "rank": "rank", "gateway": "gateway"}
"""Role by target of the Dockerfile."""

Completed = subprocess.CompletedProcess[str]


@pytest.fixture
def trial(docker_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`docker/try_images.py`, which is a program, not part of a package; a busy machine may take its time."""
    monkeypatch.syspath_prepend(docker_folder)
    program = importlib.import_module("try_images")
    for limit in ("HEALTHY_SECONDS", "CALL_SECONDS"):
        monkeypatch.setattr(program, limit, PATIENCE_SECONDS)
    return program


class LocalProgram:
    """What the trial uses of a container; the entry point of the image runs as a process of this machine."""

    def __init__(self, stage: str, folder: Path) -> None:
        (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", stage, re.MULTILINE)
        (check,) = re.findall(r"^    CMD (\[.*\])$", stage, re.MULTILINE)
        self.image, self.log = entry, folder / "log"
        self.settings: dict[str, Any] = {"Healthcheck": {"Test": ["CMD", *json.loads(check)]}}
        self._command = [sys.executable, *json.loads(entry)[1:]]
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str], mounts: dict[Path, str]) -> None:
        (bundles,) = mounts
        settings = {**os.environ, **environment, "RECSYS_BUNDLE_ROOT": str(bundles)}
        if "gateway" in self._command:
            files = {f"RECSYS_{name}_FILE": str(self._folder / name) for name in ("EVENTS", "ANSWERS")}
            settings |= files | {"RECSYS_BUDGET_SECONDS": "30"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self._command, env=settings, stdout=log, stderr=log)

    def run(self, *command: str) -> Completed:
        return subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def local_programs(docker_folder: Path, tmp_path: Path) -> Iterator[dict[str, LocalProgram]]:
    """One for each serving image, by target; none is left running."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", (docker_folder / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    stages = dict(zip(parts[::2], parts[1::2], strict=True))
    found = {}
    for target in TARGETS:
        (tmp_path / target).mkdir()
        found[target] = LocalProgram(stages[target], tmp_path / target)
    yield found
    for program in found.values():
        if program.process is not None:
            program.process.kill()
            program.process.wait()


def test_every_serving_image_is_tried_on_a_bundle_with_every_channel(trial: ModuleType, docker_folder: Path) -> None:
    script = (docker_folder / "build-images.sh").read_text()
    assert trial.ROLES == TARGETS
    variables = script.partition("PYTHON=")[2].partition("SUITE=")[0]
    shown = subprocess.run(
        ["bash", "-euc", f'PYTHON={variables}\necho "$TARGETS"'],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert sorted(shown.stdout.split()) == sorted([*TARGETS, "offline"])
    assert re.search(r'-m offline run .* --serving.channels "\$CHANNELS"$', script, re.MULTILINE)


def test_an_image_that_the_bundle_has_nothing_for_ends_the_trial(trial: ModuleType, checkerboard_store: Path) -> None:
    manifest = trial.released(checkerboard_store)
    with pytest.raises(SystemExit, match="has nothing for als, content to serve"):
        trial.serving(dict.fromkeys([*TARGETS, "offline"]), manifest)
    fitting = dict.fromkeys(set(TARGETS) - {"recall-als", "recall-content"})
    assert set(trial.serving({**fitting, "offline": None}, manifest)) == {*DEFAULT_CHANNELS, "rank", "gateway"}


def test_no_bundle_ends_the_trial(trial: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no bundle to try them on"):
        trial.released(tmp_path)


@pytest.mark.parametrize("lost", ["ingest/demo/catalogue.csv", "workflow/presets/demo.toml", "dataset/views.sql"])
def test_package_data_that_are_not_in_the_image_end_the_trial(trial: ModuleType, lost: str, tmp_path: Path) -> None:
    def run(*command: str) -> Completed:
        words = [sys.executable, *command[1:]]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)

    shutil.copytree(trial.ROOT / "offline", tmp_path / "offline", ignore=shutil.ignore_patterns("__pycache__"))
    image = SimpleNamespace(image="offline", run=run)
    trial.read_package_data(image)
    (tmp_path / "offline" / lost).unlink()
    with pytest.raises(SystemExit, match=lost):
        trial.read_package_data(image)


@pytest.mark.integration
def test_every_entry_point_serves_its_part_and_is_called(
    trial: ModuleType, local_programs: dict[str, LocalProgram], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_checkerboard(tmp_path / "bundles", channels=CHANNELS)
    manifest = trial.released(tmp_path / "bundles")
    trial.serve_all(trial.serving(local_programs, manifest), tmp_path / "bundles", manifest.cutoff)
    output = capsys.readouterr().out
    for role in (*CHANNELS, "rank"):
        assert re.search(
            rf"^{role}: healthy after .* s more, 20 \w+ of bundle {manifest.bundle_version} in", output, re.M
        )
    assert re.search(r"^gateway: healthy after .*, 10 recommendations, the first 'Film \d+' in", output, re.MULTILINE)
    assert "gateway, rank, content, als, vector, itemcf, popularity: stopped by SIGTERM with exit code 0" in output
