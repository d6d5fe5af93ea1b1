"""Re-ranking offline: its settings, what it learns, and the lists it makes of lists that were recorded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.request import Request
from gateway.pipeline.rerank import BONUS_FILE, Reranker
from offline.dataset.interactions import Snapshot
from offline.evaluation.evaluate import ModelFiles, Models
from offline.evaluation.reranking.exposure import learn_bonus
from offline.metrics.ranking import LONGEST
from offline.ranking.in_process import ChannelSource, RankerSource, no_fallback, run_pipeline
from recsys.bundle import RerankPolicy
from recsys.catalogue import Catalogue
from recsys.domain import History, Ids


class RerankConfig(BaseModel):
    """Re-ranking for exposure, calibration and diversity; with all weights 0 it is off.

    Weights are in the unit of relevance, -log2(1 + position): 1 makes up for twice the position.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    exposure: float = Field(
        default=0.0, ge=0, description="largest bonus of items that lists would not show: coverage for accuracy"
    )
    floor: float = Field(
        default=0.0025, gt=0, le=1, description="target share of lists per item; below it the item's bonus grows"
    )
    genre_calibration: float = Field(default=0.0, ge=0, description="weight of matching the user's shares of genres")
    decade_calibration: float = Field(default=0.0, ge=0, description="weight of matching the user's shares of decades")
    diversity: float = Field(default=0.0, ge=0, description="weight of an item's similarity to those further up (MMR)")
    depth: int = Field(
        default=100, ge=1, le=500, description="candidates that calibration and diversity choose from, best first"
    )
    users: int = Field(
        default=1_200, ge=1, description="users whose lists the bonuses are learned from, drawn at random"
    )
    sweeps: int = Field(default=60, ge=2, description="passes over these lists")

    def policy(self) -> RerankPolicy | None:
        """The bundle's policy; None where nothing is to change."""
        if not (self.exposure or self.genre_calibration or self.decade_calibration or self.diversity):
            return None
        return RerankPolicy(**self.model_dump(include=set(RerankPolicy.model_fields)))


@dataclass(frozen=True, slots=True)
class RankedList:
    """All candidates of one request in the order that would be served, and the history that they were made from."""

    item_ids: Ids
    history: History


@dataclass(frozen=True)
class _Recorder(Reranker):
    """Takes the re-ranker's place, records what it is given, and changes nothing."""

    lists: list[RankedList] = field(default_factory=list)

    def order(self, item_ids: Ids, history: History, count: int) -> Ids:  # noqa: ARG002
        """Keeps the list."""
        self.lists.append(RankedList(item_ids, history))
        return np.arange(len(item_ids))


def record_lists(models: Models, requests: Sequence[Request]) -> list[RankedList]:
    """What the re-ranker would be given, request by request, under the order that `models.policy` serves."""
    catalogue = models.snapshot.catalogue
    recorder = _Recorder(catalogue, RerankPolicy())
    pipeline = Pipeline(
        catalogue,
        models.policy,
        [ChannelSource(channel) for channel in models.channels],
        RankerSource(models.ranker) if models.ranker is not None else None,
        models.fallback or no_fallback(catalogue),
        reranker=recorder,
    )
    run_pipeline(pipeline, requests, title="lists")
    return recorder.lists


def sampled_requests(snapshot: Snapshot, config: RerankConfig, seed: int) -> list[Request]:
    """One request at the cut-off for each of up to `config.users` users with a history, in order of user id."""
    drawn = np.random.default_rng(seed).permutation(snapshot.user_ids)[: config.users]
    return [
        Request(snapshot.history(user_id), snapshot.cutoff, LONGEST, user_id=user_id)
        for user_id in np.sort(drawn).tolist()
    ]


def bonus_of(lists: Sequence[RankedList], catalogue: Catalogue, config: RerankConfig) -> NDArray[np.float32]:
    """float32[items]: what `config.exposure` and `config.floor` make of recorded lists."""
    rows = [catalogue.rows(made.item_ids) for made in lists]
    return learn_bonus(rows, len(catalogue), largest=config.exposure, floor=config.floor, sweeps=config.sweeps)


def write_bonus(files: ModelFiles, config: RerankConfig, folder: Path, *, seed: int) -> None:
    """`train_bonus` with the lists that the models on disk make before any re-ranking."""
    policy = files.policy.model_copy(update={"rerank": None})
    train_bonus(replace(files, policy=policy).open(), config, folder, seed=seed)


def train_bonus(models: Models, config: RerankConfig, folder: Path, *, seed: int) -> None:
    """Writes `BONUS_FILE` below `folder`, learned from lists of the snapshot's own users."""
    lists = record_lists(models, sampled_requests(models.snapshot, config, seed))
    (folder / BONUS_FILE).parent.mkdir(parents=True, exist_ok=True)
    np.save(folder / BONUS_FILE, bonus_of(lists, models.snapshot.catalogue, config))


def reordered(lists: Sequence[RankedList], reranker: Reranker | None, count: int = LONGEST) -> list[Ids]:
    """The first `count` item ids of each list, best first, as the pipeline would serve them."""
    if reranker is None:
        return [made.item_ids[:count] for made in lists]
    return [made.item_ids[reranker.order(made.item_ids, made.history, count)[:count]] for made in lists]
