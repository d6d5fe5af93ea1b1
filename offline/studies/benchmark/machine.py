"""On what, and with what, a result was made."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("recsys-serving", "numpy", "scipy", "torch", "lightgbm", "implicit", "hnswlib", "onnxruntime")


def machine() -> dict[str, str | int | float]:
    """Processor, cores that this process may use, memory, system."""
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide figures."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine_text(machine: Mapping[str, object]) -> str:
    """What `machine` found, for a line below a table."""
    return f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB"


def versions_text(versions: Mapping[str, str]) -> str:
    """What `versions` found, likewise."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
