"""Which form of the kernels runs, and that the list of them is complete."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.kernels import FORCE_NUMPY, KERNELS

FOLDER = Path(__file__).parents[3] / "recsys/kernels"
SAY = "from recsys import kernels; print(kernels.COMPILED, kernels.form())"


def said(value: str) -> str:
    """What a process says that is started with `NUMPY_KERNELS` set to `value`."""
    command, environment = [sys.executable, "-c", SAY], {**os.environ, FORCE_NUMPY: value}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_each_source_is_listed_and_has_a_stub() -> None:
    assert {path.stem for path in FOLDER.glob("*.pyx")} == set(KERNELS)
    assert {path.stem for path in FOLDER.glob("*.pyi")} == set(KERNELS)


@pytest.mark.parametrize("value", ["", "0"])
def test_the_compiled_form_runs_where_it_was_built(value: str) -> None:
    built = {name for name in KERNELS if list(FOLDER.glob(f"{name}.*.so"))}
    if built == set(KERNELS):
        assert said(value) == "True compiled\n"
    else:
        assert said(value).startswith("False numpy (")
        assert "not compiled: install again where there is a C compiler" in said(value)


def test_the_variable_forces_numpy() -> None:
    assert said("1").startswith("False numpy (")
