"""How good are the lists: each channel alone, the blended order and the ranked one, over the full catalogue.

Every list comes out of the serving pipeline. Items the user has seen are filtered by it, so nothing here filters.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from gateway.pipeline.fallback import Fallback
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.rerank import Reranker
from offline.dataset.interactions import Snapshot
from offline.evaluation.results import MIN_WARM_USERS, Evaluation, Figure, SystemRow
from offline.metrics.ranking import CUTS, LONGEST, coverage, hits_of, intervals, mean_popularity, padded, per_request
from offline.protocols.targets import Targets
from offline.publish.publish import REPORT_FOLDER
from offline.ranking.in_process import ChannelSource, RankerSource, no_fallback, run_pipeline
from offline.ranking.rankers.choice import RankerChoice
from offline.steps.sampling import notes_in
from rank_server.scoring import Ranker
from recall_server.channels.base import Channel
from recall_server.channels.registry import open_channels
from recsys.bundle import ServingPolicy
from recsys.domain import Ids, Scores

log = logging.getLogger(__name__)

BLENDED, RANKED, RERANKED = "blended", "ranked", "reranked"


class EvaluationConfig(BaseModel):
    """Which part of the test is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_users: int = Field(
        default=10_000, ge=1, description="maximum number of test users, drawn with a seed; the report says so"
    )


class BootstrapConfig(BaseModel):
    """Confidence intervals by the bootstrap."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resamples: int = Field(default=1_000, ge=1, description="bootstrap samples per interval")
    seed: int = Field(default=1, ge=0, description="seed of the bootstrap")


@dataclass(frozen=True, slots=True)
class Models:
    """What makes lists: opened channels and ranker of one cut-off, and how serving uses them."""

    snapshot: Snapshot
    channels: Sequence[Channel]
    ranker: Ranker | None
    policy: ServingPolicy
    fallback: Fallback | None = None
    """The gateway's; absent: short lists stay short."""
    reranker: Reranker | None = None
    """What changes the served order; absent: nothing does."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The models of one cut-off on disk: a folder with the files of a bundle, and how serving uses them."""

    known: Callable[[], Snapshot]
    """Makes the snapshot that they were trained on."""
    policy: ServingPolicy
    folder: Path

    def open(self) -> Models:
        """Channels, ranker, fallback, and the re-ranker where the policy has one."""
        snapshot, rerank = self.known(), self.policy.rerank
        catalogue = snapshot.catalogue
        return Models(
            snapshot,
            open_channels(self.policy, self.folder),
            Ranker.open(self.folder),
            self.policy,
            Fallback.open(self.folder, catalogue),
            None if rerank is None else Reranker.open(self.folder, catalogue, rerank),
        )


@dataclass(frozen=True, slots=True)
class Lists:
    """What one system recommends, request by request."""

    item_ids: Ids
    """int64[requests, `LONGEST`], best first, filled up with `NO_ITEM`."""
    scores: Scores
    """float32[requests, `LONGEST`], parallel; 0 where filled up."""
    seconds: float = 0.0
    """How long all of them took."""


def write_report(
    files: ModelFiles,
    ask: Callable[[], Targets],
    choice: Path,
    folder: Path,
    *,
    name: str,
    kind: str,
    config: BootstrapConfig,
    trained_on: tuple[str, ...] = (),
) -> None:
    """Evaluates the models on the requests that `ask` makes; `choice` is the folder of the ranker that was chosen.

    `trained_on` names the samples that the models learned from.
    """
    targets = ask()
    targets.note_sample(folder, "evaluation")
    result = evaluate(files.open(), targets, name=name, kind=kind, config=config)
    sampled = (*trained_on, *notes_in(folder))
    replace(result, choice=RankerChoice.load(choice), sampled=sampled).save(folder / REPORT_FOLDER)


def evaluate(models: Models, targets: Targets, *, name: str, kind: str, config: BootstrapConfig) -> Evaluation:
    """Makes the lists of every system and measures them. `name` and `kind` identify the result."""
    return measure(produce_lists(models, targets), models.snapshot, targets, name=name, kind=kind, config=config)


def produce_lists(models: Models, targets: Targets, only: Collection[str] | None = None) -> dict[str, Lists]:
    """Lists by system: each channel alone, `blended`, where there are any `ranked` and `reranked`; or `only` some."""
    systems = {channel.name: _alone(models, channel) for channel in models.channels}
    systems[BLENDED] = _pipeline(models, BLENDED)
    if models.ranker is not None:
        systems[RANKED] = _pipeline(models, RANKED)
    if models.reranker is not None:
        systems[RERANKED] = _served(models)
    return {
        system: _lists(pipeline, targets, system)
        for system, pipeline in systems.items()
        if only is None or system in only
    }


def served_lists(models: Models, targets: Targets) -> Lists:
    """The lists of the order that the policy serves: what replay must find again."""
    return _lists(_served(models), targets, RERANKED if models.reranker is not None else models.policy.ranking)


def measure(
    lists: Mapping[str, Lists],
    snapshot: Snapshot,
    targets: Targets,
    *,
    name: str,
    kind: str,
    config: BootstrapConfig,
) -> Evaluation:
    """Measures lists of any origin: those of `produce_lists`, or those that replay received."""
    groups = {"warm": targets.warm, "cold": ~targets.warm}
    rows = tuple(
        row_of(system, group, made, chosen, snapshot=snapshot, targets=targets, config=config)
        for system, made in lists.items()
        for group, chosen in groups.items()
        if chosen.any()
    )
    return Evaluation(name, kind, snapshot.cutoff, len(snapshot.catalogue), rows)


def request_values(made: Lists, targets: Targets) -> dict[str, NDArray[np.float64]]:
    """Every metric at every cut as `name@K`: float64[requests]."""
    return per_request(hits_of(made.item_ids, targets.relevant), targets.relevant.counts)


def row_of(
    system: str,
    group: str,
    made: Lists,
    chosen: NDArray[np.bool_],
    *,
    snapshot: Snapshot,
    targets: Targets,
    config: BootstrapConfig,
) -> SystemRow:
    """The figures of one system on the requests `chosen`, bool[requests], which `group` names."""
    values = {metric: figures[chosen] for metric, figures in request_values(made, targets).items()}
    table = np.stack(list(values.values()), axis=1)
    user_ids, shown = targets.user_ids[chosen], made.item_ids[chosen]
    bounds = intervals(table, user_ids, resamples=config.resamples, seed=config.seed)
    means = table.mean(axis=0)
    counts = np.bincount(snapshot.events.item_rows, minlength=len(snapshot.catalogue))
    return SystemRow(
        system,
        group,
        users=len(np.unique(user_ids)),
        requests=int(chosen.sum()),
        figures={metric: Figure(float(means[i]), *bounds[i].tolist()) for i, metric in enumerate(values)},
        coverage={k: coverage(shown, len(snapshot.catalogue), k) for k in CUTS},
        popularity={k: mean_popularity(shown, snapshot.catalogue.item_ids, counts, k) for k in CUTS},
        seconds=made.seconds,
        too_few=group == "warm" and len(np.unique(user_ids)) < MIN_WARM_USERS,
    )


def _alone(models: Models, channel: Channel) -> Pipeline:
    only = tuple(policy for policy in models.policy.channels if policy.name == channel.name)
    only = tuple(policy.model_copy(update={"weight": 1.0}) for policy in only)
    policy = models.policy.model_copy(update={"channels": only, "ranking": BLENDED})
    catalogue = models.snapshot.catalogue
    return Pipeline(catalogue, policy, [ChannelSource(channel)], None, no_fallback(catalogue))


def _pipeline(models: Models, ranking: str) -> Pipeline:
    catalogue = models.snapshot.catalogue
    return Pipeline(
        catalogue,
        models.policy.model_copy(update={"ranking": ranking}),
        [ChannelSource(channel) for channel in models.channels],
        RankerSource(models.ranker) if models.ranker is not None else None,
        models.fallback or no_fallback(catalogue),
    )


def _served(models: Models) -> Pipeline:
    return replace(_pipeline(models, models.policy.ranking), reranker=models.reranker)


def _lists(pipeline: Pipeline, targets: Targets, title: str) -> Lists:
    started = time.perf_counter()
    answers = run_pipeline(pipeline, targets.requests, title=title)
    seconds = time.perf_counter() - started
    log.info("evaluate: %s, %d requests in %.1f s", title, len(targets), seconds)
    return lists_of([(answer.candidates.item_ids, answer.scores) for answer in answers], seconds)


def lists_of(answers: Sequence[tuple[Sequence[int] | Ids, Sequence[float] | Scores]], seconds: float = 0.0) -> Lists:
    """Items and scores of each answer, best first, as arrays."""
    scores = np.zeros((len(answers), LONGEST), np.float32)
    for row, (_, values) in enumerate(answers):
        n = min(len(values), LONGEST)
        scores[row, :n] = values[:n]
    return Lists(padded([np.asarray(item_ids, np.int64) for item_ids, _ in answers]), scores, seconds)
