"""Inner loops, compiled ahead of time by Cython; callers keep a numpy or ONNX Runtime form of each, with equal results.

The installation compiles them where it finds a C compiler; elsewhere, and where the environment variable
`NUMPY_KERNELS` is set to 1, the other forms run. A caller imports what it needs, so that no process loads all:

    if COMPILED:
        from recsys.kernels import _trees
"""

from __future__ import annotations

import os
from importlib.util import find_spec

KERNELS = ("_features", "_links", "_merging", "_similar", "_trees")
"""Modules of this package that `setup.py` compiles, each from its `.pyx` file."""

FORCE_NUMPY = "NUMPY_KERNELS"
"""Environment variable: 1 runs the numpy forms of everything, to compare or to look for a fault."""

_missing = tuple(name for name in KERNELS if find_spec(f"{__name__}.{name}") is None)

COMPILED = not _missing and os.environ.get(FORCE_NUMPY, "0") in ("", "0")
"""Whether the compiled forms run: all or none of them."""


def form() -> str:
    """Which form runs and why, for the line that a process logs at its start."""
    if COMPILED:
        return "compiled"
    if _missing:
        return f"numpy ({', '.join(_missing)} not compiled: install again where there is a C compiler)"
    return f"numpy ({FORCE_NUMPY} is set)"
