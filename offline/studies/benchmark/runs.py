"""One benchmark: rows for the peers, lists of theirs and ours, one measure, one result."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offline.dataset.interactions import Snapshot
from offline.dataset.splits import Protocol
from offline.evaluation.evaluate import Lists, request_values, row_of
from offline.protocols.targets import TargetKind, Targets
from offline.studies.benchmark.command import command_of
from offline.studies.benchmark.config import BenchmarkConfig
from offline.studies.benchmark.differences import differences
from offline.studies.benchmark.headlines import (
    COLD,
    WARM,
    chosen_metric,
    measured_group,
    shown_metrics,
    special_moment,
)
from offline.studies.benchmark.machine import machine, versions
from offline.studies.benchmark.ours import WHOLE, OwnRun, names_of_ours, run_ours
from offline.studies.benchmark.peers import ALL_PEERS, PEERS, PeerPlace, PeerRun, run_peer
from offline.studies.benchmark.published import published_rows
from offline.studies.benchmark.results import (
    BenchmarkResult,
    BenchmarkRow,
    GroupRows,
    Origin,
    PairedDifference,
    check_no_rows_lost,
    moment_suffix,
    result_name,
)
from offline.studies.benchmark.rows import export_rows
from offline.workflow.workflow import Workflow
from recsys.errors import CannotStart

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bench:
    """What all systems of one benchmark share."""

    config: BenchmarkConfig
    workflow: Workflow
    kind: TargetKind
    snapshot: Snapshot
    targets: Targets
    group: str
    measured: NDArray[np.bool_]

    @classmethod
    def of(cls, config: BenchmarkConfig) -> Bench:
        """Reads the data and asks the test fold; nothing is trained yet."""
        workflow = Workflow(config.offline())
        plan = workflow.plan
        kind = config.targets or plan.kinds[0]
        plan.check_kind(kind)
        known = plan.test.training_view
        snapshot = known.dataset.snapshot(known.cutoff)
        targets = plan.test.ask(snapshot, kind)
        return cls(config, workflow, kind, snapshot, targets, *measured_group(plan, kind, targets))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The figures of the table."""
        return shown_metrics(self.config.protocol, self.kind)

    @property
    def saved_as(self) -> Path:
        """Where the result is saved."""
        moment = special_moment(self.config.split)
        return self.config.results / f"{result_name(self.config.protocol, self.config.label, self.kind, moment)}.json"

    def row(self, run: OwnRun | PeerRun) -> BenchmarkRow:
        """The row of one system."""
        if run.lists is None:
            return BenchmarkRow(title_of(run), "peer", note=run.note)
        seconds, memory = self._cost(run)
        row = self._figures(run, run.lists, self.measured)
        return replace(row, cpu_seconds=seconds, peak_memory_bytes=memory, note=run.note)

    def rows_apart(self, runs: Sequence[OwnRun | PeerRun]) -> tuple[GroupRows, ...]:
        """Warm and cold users apart where time is cut, less the group of the table; without costs."""
        if self.workflow.plan.split is None:
            return ()
        groups = {WARM: self.targets.warm, COLD: ~self.targets.warm}
        return tuple(
            GroupRows(
                group,
                users=len(np.unique(self.targets.user_ids[chosen])),
                requests=int(chosen.sum()),
                rows=tuple(self._figures(run, run.lists, chosen) for run in runs if run.lists is not None),
            )
            for group, chosen in groups.items()
            if group != self.group and chosen.any()
        )

    def _figures(self, run: OwnRun | PeerRun, lists: Lists, chosen: NDArray[np.bool_]) -> BenchmarkRow:
        found = row_of(
            title_of(run),
            self.group,
            lists,
            chosen,
            snapshot=self.snapshot,
            targets=self.targets,
            config=self.config.bootstrap,
        )
        origin: Origin = "peer" if isinstance(run, PeerRun) else origin_of(run.system)
        return BenchmarkRow(found.system, origin, dict(found.figures), found.coverage[10], found.popularity[10])

    def _cost(self, run: OwnRun | PeerRun) -> tuple[float | None, int | None]:
        if isinstance(run, PeerRun):
            return run.facts.get("cpu_seconds"), run.facts.get("peak_memory_bytes")
        if run.cost.cpu_seconds is None:
            return None, None
        tuned = tuning_seconds(self.config.settings / self.config.place, run.system)
        return round(run.cost.cpu_seconds + tuned, 3), run.cost.peak_memory_bytes

    def differences(self, runs: Sequence[OwnRun | PeerRun]) -> list[PairedDifference]:
        """Ours against the best peers, and the ranked order against our others."""
        made = [(run, self._values(run.lists)) for run in runs if run.lists is not None]
        own = {run.system: values for run, values in made if isinstance(run, OwnRun)}
        theirs = {title_of(run): values for run, values in made if isinstance(run, PeerRun)}
        return differences(own, theirs, self.metrics, self.targets.user_ids[self.measured], self.config.bootstrap)

    def _values(self, lists: Lists) -> NDArray[np.float64]:
        """float64[measured requests, metrics]: the table's figures of every measured request."""
        found = request_values(lists, self.targets)
        return np.stack([found[metric][self.measured] for metric in self.metrics], axis=1)


def run_benchmark(config: BenchmarkConfig) -> BenchmarkResult:
    """All rows of one protocol on one data set.

    Raises CannotStart for an unknown model, DataError for a saved result that would lose figures: both before
    anything is trained.
    """
    bench = Bench.of(config)
    peers, ours = chosen_models(config, names_of_ours(bench.workflow))
    check_no_rows_lost(bench.saved_as, {("peer", name) for name in peers} | {(origin_of(name), name) for name in ours})
    peer_runs = run_peers(bench, peers)
    own_runs = run_ours(bench.workflow, bench.targets, ours)
    runs: list[OwnRun | PeerRun] = [*peer_runs, *own_runs]
    return BenchmarkResult(
        config.protocol,
        config.label,
        bench.kind,
        bench.group,
        bench.metrics,
        users=len(np.unique(bench.targets.user_ids[bench.measured])),
        requests=int(bench.measured.sum()),
        catalogue=len(bench.snapshot.catalogue),
        command=command_of(config),
        date=datetime.now(UTC).date().isoformat(),
        budget_minutes=config.budget_minutes,
        machine=machine(),
        versions=versions(),
        rows=tuple(_rows(bench, runs, peers)),
        differences=tuple(bench.differences(runs)),
        remarks=(config.remark,) if config.remark else (),
        moment=special_moment(config.split),
        apart=bench.rows_apart(runs),
    )


def _rows(bench: Bench, runs: Sequence[OwnRun | PeerRun], peers: Sequence[str]) -> list[BenchmarkRow]:
    """What others published, what was run, and the peers that were not; `peers` are those that were asked for."""
    config = bench.config
    return [
        *published_rows(config.protocol, config.label, bench.kind),
        *(bench.row(run) for run in runs),
        *absent_peers(config.protocol, peers, config.settings / config.place / "peers"),
    ]


def chosen_models(config: BenchmarkConfig, ours: Sequence[str]) -> tuple[list[str], list[str]]:
    """Peers and our systems that are run. `peer:NAME` names a peer that is called like one of ours."""
    if not config.models:
        return list(PEERS[config.protocol]), list(ours)
    peers, own = [], []
    for name in config.models:
        if name in ours:
            own.append(name)
        elif name.removeprefix("peer:") in ALL_PEERS:
            peers.append(name.removeprefix("peer:"))
        else:
            raise CannotStart(
                f"models: no model {name!r}; peers are {', '.join(sorted(ALL_PEERS))}, ours {', '.join(ours)} "
                "(others with --serving.channels)"
            )
    return peers, own


def run_peers(bench: Bench, names: Sequence[str]) -> list[PeerRun]:
    """Writes the rows and runs the peers, one after another; without peers no rows are written."""
    config = bench.config
    suffix = moment_suffix(special_moment(config.split))
    folder = config.bench_root / "peers" / f"{config.protocol}-{bench.kind}{suffix}"
    place = PeerPlace(
        config.peers_python, folder / "rows", folder, config.settings / config.place / "peers", config.budget_minutes
    )
    if names:
        export_rows(
            bench.workflow.plan,
            bench.targets,
            place.rows,
            dataset=config.label,
            kind=bench.kind,
            metric=chosen_metric(config.protocol),
            seed=config.seed,
        )
    return [run_peer(name, place, bench.targets, bench.snapshot.catalogue.item_ids) for name in names]


def absent_peers(protocol: Protocol, asked: Sequence[str], records: Path) -> list[BenchmarkRow]:
    """A row for each peer of the protocol that the command left out, if it asked for any; `records` have the cost."""
    left_out = [name for name in PEERS[protocol] if name not in asked] if asked else []
    return [BenchmarkRow(name, "peer", note=f"not run: {_need(records / f'{name}.json')}") for name in left_out]


def _need(record: Path) -> str:
    """Why a peer was not run, with what its recorded search took where there was one."""
    if not record.is_file():
        return "not asked for"
    content = json.loads(record.read_text("utf-8"))
    return f"not asked for; an earlier run took {float(content['cpu_seconds']):,.0f} CPU-seconds"


def origin_of(system: str) -> Origin:
    """Of one of our systems."""
    return "ours" if system in WHOLE else "channel"


def title_of(run: OwnRun | PeerRun) -> str:
    """Our system; or a peer's model, package and version."""
    if isinstance(run, OwnRun):
        return run.system
    facts: Mapping[str, object] = run.facts
    if "package" not in facts:
        return run.model
    return f"{run.model} ({facts['package']} {facts.get('version', '')})".replace(" )", ")")


def tuning_seconds(folder: Path, system: str) -> float:
    """CPU time of the trials that chose the settings of one of our systems; of all of them for whole systems."""
    tables = sorted(folder.glob("*.json"))
    kept = tables if system in WHOLE else [path for path in tables if path.stem == system]
    return sum(float(json.loads(path.read_text("utf-8"))["cpu_seconds"]) for path in kept)
