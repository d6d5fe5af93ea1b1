"""Wheels with and without a C compiler, and what the software says and does with each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from recsys.kernels import KERNELS

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[3]
NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}
PROGRAM = """
import numpy as np
from recall_server.channels.links import make_links
from recsys import kernels
links = make_links(np.asarray([[1], [2]], np.int32), np.ones((2, 1), np.float32))
found = links.best(np.asarray([0]), np.ones(1, np.float32), 9, excluded=np.empty(0, np.int64), passing=None)
print(kernels.__file__, kernels.form(), type(links).__name__, [part.tolist() for part in found], sep="|")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """What a release contains, without anything that was built here."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for file in files:
        if file.startswith(("recsys/", "recall_server/", "rank_server/", "gateway/", "offline/")) or "/" not in file:
            (tmp_path / "source" / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / "source" / file)
    return tmp_path / "source"


def pip(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs pip without an index, in this environment."""
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", "--no-build-isolation", "--no-index"]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def built(source: Path, **environment: str) -> tuple[Path, set[str]]:
    """The wheel, and the names of the kernels in it."""
    done = pip("wheel", source, "--wheel-dir", source.parent / "wheels", **environment)
    assert done.returncode == 0, done.stderr
    (wheel,) = (source.parent / "wheels").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"recsys/kernels/{kernel}.pyi" for kernel in KERNELS} <= set(names)
    assert not [name for name in names if name.endswith((".c", ".cpp"))]
    return wheel, {Path(name).name.partition(".")[0] for name in names if name.endswith(".so")}


def said_by(wheel: Path, folder: Path) -> str:
    """What `PROGRAM` prints where the wheel is installed; it is not the checkout that runs."""
    assert pip("install", wheel, "--target", folder).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-P", "-c", PROGRAM]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    place, _, said = done.stdout.strip().partition("|")
    assert place.startswith(str(folder))
    return said


def test_a_wheel_ships_the_compiled_kernels(source: Path, tmp_path: Path) -> None:
    wheel, kernels = built(source, REQUIRE_KERNELS="1")
    assert kernels == set(KERNELS)
    assert said_by(wheel, tmp_path / "installed") == "compiled|Links|[[1], [1.0], [0]]"


def test_without_a_compiler_numpy_does_their_work(source: Path, tmp_path: Path) -> None:
    wheel, kernels = built(source, **NO_COMPILER)
    assert kernels == set()
    reason = f"numpy ({', '.join(KERNELS)} not compiled: install again where there is a C compiler)"
    assert said_by(wheel, tmp_path / "installed") == f"{reason}|NumpyLinks|[[1], [1.0], [0]]"


def test_what_must_have_kernels_is_not_built_without(source: Path) -> None:
    done = pip("wheel", source, "--wheel-dir", source.parent / "wheels", REQUIRE_KERNELS="1", **NO_COMPILER)
    assert done.returncode != 0
    assert "/bin/false" in done.stderr
    assert not list((source.parent / "wheels").glob("*.whl"))


def test_a_source_release_can_build_them(source: Path, tmp_path: Path) -> None:
    program = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, check=True)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(tmp_path / "released", filter="data")
    (released,) = (tmp_path / "released").iterdir()
    assert {path.name for path in (released / "recsys/kernels").iterdir()} >= {f"{name}.pyx" for name in KERNELS}
    assert built(released, REQUIRE_KERNELS="1")[1] == set(KERNELS)
