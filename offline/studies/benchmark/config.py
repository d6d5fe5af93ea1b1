"""Settings of the bench and of its tuning."""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from offline.dataset.splits import Protocol
from offline.protocols.targets import TargetKind
from offline.studies.benchmark.spaces import SPACES
from offline.workflow.config import OfflineConfig
from recsys.config import merged
from recsys.errors import CannotStart

SETTINGS = Path("benchmarks/settings")
CUT_IN_TIME: tuple[Protocol, ...] = ("temporal", "time-to-split")
"""The protocols of what serves; the others' models may be trained on the future of a request."""
BY_HAND = "base"
"""The file of settings that people chose."""
PREFIX = str(OfflineConfig.model_config["env_prefix"])


class BenchConfig(OfflineConfig):
    """Settings of both: a protocol, a data set, a budget."""

    protocol: Protocol = Field(default="time-to-split", description="evaluation protocol")
    targets: TargetKind | None = Field(
        default=None, description="targets, for protocols that cut time; by default what the protocol uses"
    )
    budget_minutes: float = Field(default=60.0, gt=0, description="CPU-minutes per model, including tuning")
    settings: Path = Field(
        default=SETTINGS, description="folder with chosen settings and trials, per protocol and data set"
    )
    tracking: str = Field(default="sqlite:///mlflow.db", description="MLflow tracking URI; empty turns tracking off")

    @property
    def place(self) -> str:
        """The folder of the settings, below `settings`."""
        return _place(self.protocol, self.label, self.targets)

    @property
    def bench_root(self) -> Path:
        """Where the bench works: each data set folder by itself."""
        return bench_root(self.root, self.label)

    @model_validator(mode="before")
    @classmethod
    def _one_protocol(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The protocol of the bench is that of the split."""
        return under_protocol(values, values.get("protocol", "time-to-split"))

    @classmethod
    def _preset(cls, arguments: Sequence[str], file: dict[str, Any]) -> dict[str, Any]:
        """The chosen settings of our models go before the defaults and behind everything else."""
        return with_chosen(super()._preset(arguments, file), arguments, file)

    def offline(self) -> Self:
        """The configuration of the workflow: the same, in a work folder of its own."""
        return self.model_copy(update={"root": self.bench_root})


class BenchmarkConfig(BenchConfig):
    """Compare our models with peers on the same rows of a protocol."""

    main_settings = (
        "protocol",
        "models",
        "targets",
        "budget_minutes",
        "report",
        "results",
        "peers_python",
        "dataset",
        "data_dir",
        "config",
    )

    models: tuple[str, ...] = Field(
        default=(),
        description="models to run: peers, channels, blended, ranked; by default the protocol's peers and all of ours",
    )
    results: Path = Field(
        default=Path("benchmarks/results"),
        description="folder where results are saved, and from which --report reads them",
    )
    peers_python: Path = Field(
        default=Path(".venv-peers/bin/python"),
        description="Python interpreter of the peers' environment, which `make peers` creates",
    )
    remark: str = Field(default="", description="remark to print with the figures, e.g. about imputed timestamps")
    report: bool = Field(default=False, description="run nothing; print all saved results as a page")


class TuneConfig(BenchConfig):
    """Search our models' settings on validation, within a budget."""

    main_settings = (
        "models",
        "protocol",
        "targets",
        "budget_minutes",
        "max_trials",
        "max_requests",
        "settings",
        "dataset",
        "data_dir",
        "config",
    )

    models: tuple[str, ...] = Field(default=("itemcf",), description=f"models to tune, any of {', '.join(SPACES)}")
    max_trials: int = Field(
        default=40, ge=1, description="maximum number of trials per model, including finished ones of earlier runs"
    )
    max_requests: int = Field(default=3_000, ge=1, description="maximum number of validation requests per trial")


def under_protocol(values: dict[str, Any], protocol: str) -> dict[str, Any]:
    """Values of a configuration whose split is `protocol`'s; where only last events are asked for, so does validation.

    Values whose split is no table stay as they are.
    """
    split = values.get("split")
    if not isinstance(split, dict) and split is not None:
        return values
    given = {**(split or {}), "protocol": protocol}
    if values.get("targets") == "last" and protocol in CUT_IN_TIME:
        given = {"labels": "last", **given}
    return {**values, "split": given}


def with_chosen(preset: dict[str, Any], arguments: Sequence[str], file: dict[str, Any]) -> dict[str, Any]:
    """`preset` with the chosen settings of the place that `arguments` and `file` name before it."""
    early = _deciding(arguments, file)
    label = Path(early.data_dir).name if early.data_dir else early.dataset
    for path in chosen_files(Path(early.settings) / _place(early.protocol, label, early.targets)):
        preset = merged(preset, tomllib.loads(path.read_text("utf-8")))
    return preset


def bench_root(root: Path, label: str) -> Path:
    """The data root of the bench below `root`, for one data set folder."""
    return root / "benchmark" / label


def chosen_files(folder: Path) -> list[Path]:
    """The settings below `folder`, later ones before earlier ones: those that people chose, then each model's search.

    `tune` rewrites a model's file and leaves the hand-written one alone.
    """
    return [path for name in (BY_HAND, *SPACES) if (path := folder / f"{name}.toml").is_file()]


def _deciding(arguments: Sequence[str], file: dict[str, Any]) -> argparse.Namespace:
    """The settings that decide how the others are read: from flags, else variables, else the file."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    defaults = {"protocol": "time-to-split", "dataset": "demo", "data_dir": None, "targets": None, "settings": SETTINGS}
    for name, otherwise in defaults.items():
        default = os.environ.get(f"{PREFIX}{name.upper()}", file.get(name, otherwise))
        parser.add_argument(f"--{name.replace('_', '-')}", default=default)
    try:
        return parser.parse_known_args(arguments)[0]
    except argparse.ArgumentError as error:
        raise CannotStart(f"{error}; see --help") from None


def _place(protocol: str, label: str, kind: str | None) -> str:
    own = kind is None or kind == "all" or protocol not in CUT_IN_TIME
    return f"{protocol}-{label}" if own else f"{protocol}-{label}-{kind}"
