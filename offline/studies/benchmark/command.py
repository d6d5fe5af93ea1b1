"""The command that makes a result again, on any machine."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offline.studies.benchmark.config import BenchmarkConfig
from offline.workflow.config import OfflineConfig

LOCATIONS = frozenset(
    {
        "config",
        "data_dir",
        "root",
        "settings",
        "results",
        "out",
        "peers_python",
        "tracking",
        "report",
        "test_curve",
    }
)
"""Where things are on a machine, and what is shown with a result: they change no figure."""
FILES = frozenset({"metadata_file", "items_file"})
"""They do change figures; where they are is this machine's business."""


def command_of(config: BenchmarkConfig) -> str:
    """Every setting that is neither a default nor a chosen one of `config.settings`, less this machine's folders."""
    words = ["--protocol", config.protocol, "--dataset", config.dataset]
    words += ["--targets", config.targets] if config.targets is not None else []
    label = ["--data-dir", f"path/to/{config.label}"] if config.data_dir is not None else []
    usual = BenchmarkConfig.from_arguments([*words, *label, "--settings", str(config.settings)], "benchmark")
    return shlex.join(["python", "-m", "offline", "benchmark", *words, *label, *differing_flags(usual, config)])


def differing_flags(usual: OfflineConfig, given: OfflineConfig) -> list[str]:
    """The flags that make `given` of `usual`, less those of paths."""
    found = _differing(usual.model_dump(mode="json"), given.model_dump(mode="json"))
    return [word for name, value in found for word in (f"--{name.replace('_', '-')}", _written(value))]


def _differing(usual: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of the settings in which the two differ, section by section."""
    for name, value in given.items():
        if not prefix and name in LOCATIONS:
            continue
        before = usual.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            yield from _differing(before, value, f"{prefix}{name}.")
        elif value != before:
            yield f"{prefix}{name}", f"path/to/{Path(value).name}" if name in FILES and value else value


def _written(value: Any) -> str:
    """As the command line takes it."""
    if isinstance(value, list) and all(isinstance(entry, (str, int, float)) for entry in value):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
