"""`offline rerank`: which setting of re-ranking covers as much as is asked for, and what it costs."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from offline.commands.output import say
from offline.commands.verb import Verb
from offline.dataset.splits import Protocol
from offline.evaluation.reranking.lists import RerankConfig
from offline.protocols.targets import TargetKind
from offline.studies.benchmark.command import differing_flags
from offline.studies.benchmark.config import SETTINGS, bench_root, under_protocol, with_chosen
from offline.studies.benchmark.headlines import special_moment
from offline.studies.benchmark.machine import machine, versions
from offline.studies.benchmark.results import moment_suffix
from offline.studies.rerank.curve import EXPOSURES, WEIGHTS, sweep
from offline.studies.rerank.report import RerankReport, flags_of, report_rerank
from offline.studies.rerank.result import RerankResult, text_table
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow
from recsys.errors import CannotStart

log = logging.getLogger(__name__)


class RerankCurveConfig(OfflineConfig):
    """Choose re-ranking for coverage on validation; show it on the test."""

    main_settings = (
        "coverage",
        "protocol",
        "targets",
        "exposures",
        "weights",
        "out",
        "test_curve",
        "dataset",
        "root",
        "config",
    )

    protocol: Protocol | None = Field(
        default=None,
        description="re-rank what `benchmark` made under this protocol, with the settings chosen for it; by default "
        "what `run` made under split.protocol",
    )
    coverage: float = Field(
        default=0.23, ge=0, le=1, description="minimum coverage@10 on validation of the setting to choose"
    )
    targets: TargetKind | None = Field(
        default=None, description="targets of the test; by default what the protocol uses"
    )
    exposures: tuple[float, ...] = Field(
        default=EXPOSURES, min_length=1, description="values of rerank.exposure to try; 0 keeps the ranked order"
    )
    weights: tuple[float, ...] = Field(
        default=WEIGHTS, description="values to try for both calibrations and for diversity, one at a time"
    )
    out: Path | None = Field(
        default=None,
        description="folder for the curve and its plot; by default a folder per protocol and kind of targets in "
        "rerank/ of the data set's folder",
    )
    test_curve: bool = Field(
        default=False,
        description="also plot the test curve of all settings tried, for information: nothing is chosen on it",
    )
    results: Path = Field(
        default=Path("benchmarks/results/rerank"), description="folder for the result that docs/results shows"
    )
    settings: Path = Field(
        default=SETTINGS, description="folder with the settings chosen per protocol and data set, used with --protocol"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_protocol(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A protocol that is given is that of the split, as in the bench."""
        return under_protocol(values, values["protocol"]) if values.get("protocol") else values

    @classmethod
    def _preset(cls, arguments: Sequence[str], file: dict[str, Any]) -> dict[str, Any]:
        """With a protocol, the chosen settings of our models go before the defaults and behind everything else."""
        preset = super()._preset(arguments, file)
        given = cls._early("protocol", arguments, file.get("protocol"))
        return preset if given is None else with_chosen(preset, arguments, file)

    def offline(self) -> OfflineConfig:
        """The configuration of the workflow: it re-ranks nothing, and finds steps where they were made."""
        root = self.root if self.protocol is None else bench_root(self.root, self.label)
        return self.model_copy(update={"root": root, "rerank": RerankConfig()})

    def folder(self, kind: TargetKind) -> Path:
        """Where the curve and the choice are written; other protocols, kinds and moments have folders of their own."""
        own = f"{self.split.protocol}-{kind}{moment_suffix(special_moment(self.split))}"
        return self.out or self.offline().home / "rerank" / own


def rerank(config: RerankCurveConfig) -> None:
    """Prints the table and the flags to serve with; saves the curve, its picture and the result.

    Raises CannotStart where matplotlib is not installed, DataError where no setting covers as much as is asked for.
    """
    _check_pictures()
    workflow = Workflow(config.offline())
    kind = config.targets or workflow.plan.kinds[0]
    workflow.plan.check_kind(kind)
    folder = config.folder(kind)
    tried = sweep(config.exposures, config.weights, base=config.rerank)
    report = report_rerank(
        workflow, folder, kind=kind, coverage=config.coverage, settings=tried, test_curve=config.test_curve
    )
    result = _result(config, workflow, report, kind)
    say(text_table(result))
    for place in (folder, config.results):
        log.info("saved as %s", result.save(place))


def command_of(config: RerankCurveConfig) -> str:
    """The command that makes the result again, on any machine."""
    words = [] if config.protocol is None else ["--protocol", config.protocol]
    words += ["--dataset", config.dataset]
    words += ["--targets", config.targets] if config.targets is not None else []
    words += ["--data-dir", f"path/to/{config.label}"] if config.data_dir is not None else []
    usual = RerankCurveConfig.from_arguments([*words, "--settings", str(config.settings)], "rerank")
    return shlex.join(["python", "-m", "offline", "rerank", *words, *differing_flags(usual, config)])


def _result(config: RerankCurveConfig, workflow: Workflow, report: RerankReport, kind: TargetKind) -> RerankResult:
    test = workflow.plan.test.training_view
    return RerankResult(
        workflow.plan.protocol,
        config.label,
        kind,
        config.coverage,
        flags_of(report.chosen),
        report.users,
        report.requests,
        catalogue=len(workflow.recall.models(test).item_ids),
        rows=report.rows,
        curve=report.curve,
        command=command_of(config),
        date=datetime.now(UTC).date().isoformat(),
        machine=machine(),
        versions=versions(),
        moment=special_moment(config.split),
    )


def _check_pictures() -> None:
    if find_spec("matplotlib") is None:
        raise CannotStart("matplotlib is not installed, the curve's picture needs it; install the extra `bench`")


VERB = Verb(RerankCurveConfig, rerank)
