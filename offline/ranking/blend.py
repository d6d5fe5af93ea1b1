"""How channels are blended and how many candidates are ranked, chosen on validation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from gateway.pipeline.merge import blended_scores
from offline.dataset.interactions import Snapshot
from offline.metrics.ranking import LONGEST, per_request
from offline.protocols.targets import Targets
from offline.ranking.samples import record_queries, relevant_lists
from recall_server.channels.registry import open_channels
from recsys.bundle import ServingPolicy
from recsys.domain import Candidates, RankQuery

log = logging.getLogger(__name__)

METRIC = "ndcg@10"
POLICY_FILE = "policy.json"
MIN_WARM_REQUESTS = 50
"""With fewer warm requests than this, choices look at cold ones as well."""


class BlendConfig(BaseModel):
    """Blend weights and rank counts that are tried on validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: tuple[float, ...] = Field(default=(0.5, 1.0, 2.0), description="weights tried per channel")
    constants: tuple[float, ...] = Field(default=(20.0, 60.0), description="k of reciprocal rank fusion")
    sweeps: int = Field(default=2, ge=1, description="passes over the channels")
    rank_counts: tuple[int, ...] = Field(default=(200,), description="numbers of ranked candidates tried")
    retained: float = Field(
        default=0.97, gt=0, le=1, description="minimum share of the relevant candidates that must be ranked"
    )
    max_users: int = Field(
        default=2_000, ge=1, description="maximum number of users that settings are tried on, drawn with a seed"
    )


def pool_policy(policy: ServingPolicy) -> ServingPolicy:
    """`policy` with nothing cut before ranking: what `choose_policy` wants its queries made with."""
    return policy.model_copy(update={"rank_count": 2_000})


def choose_blend(
    snapshot: Snapshot,
    recall: Path,
    ask: Callable[[], Targets],
    folder: Path,
    *,
    start: ServingPolicy,
    config: BlendConfig,
) -> None:
    """Writes `POLICY_FILE`: what `choose_policy` makes of `start` for the requests that `ask` makes.

    `recall` is the folder of the channels that were trained on the snapshot.
    """
    targets = ask()
    targets.note_sample(folder, "blend")
    queries = record_queries(snapshot, open_channels(start, recall), targets, policy=pool_policy(start))
    (folder / POLICY_FILE).write_text(choose_policy(queries, targets, start, config).model_dump_json(indent=1), "utf-8")


def choose_policy(
    queries: Sequence[RankQuery], targets: Targets, policy: ServingPolicy, config: BlendConfig
) -> ServingPolicy:
    """`policy` with the blend weights, constant and rank count that are best on `targets`.

    `queries` are those of `record_queries` under `pool_policy(policy)`. Weights are searched one channel at a time,
    from equal ones; NDCG@10 decides, and of equals the first tried. The rank count is the smallest that retains
    `config.retained` of the relevant candidates, else the largest tried.
    """
    requests = _labelled(queries, targets)
    if not requests:
        return policy.model_copy(update={"rank_count": max(config.rank_counts)})
    best, best_value = policy, _quality(requests, policy)
    for constant in config.constants:
        trial, value = _search_weights(requests, policy.model_copy(update={"blend_constant": constant}), config)
        if value > best_value:
            best, best_value = trial, value
    count = _smallest_count(requests, best, config)
    log.info(
        "blend: %s, k = %g, %d candidates to the ranker: validation %s %.4f",
        ", ".join(f"{channel.name} {channel.weight:g}" for channel in best.channels),
        best.blend_constant,
        count,
        METRIC,
        best_value,
    )
    return best.model_copy(update={"rank_count": count})


class LabelledRequest(NamedTuple):
    """The candidates of one request, and what of them is relevant."""

    candidates: Candidates
    relevant: NDArray[np.bool_]
    """bool[candidates]."""
    relevant_count: int
    """Relevant items, found by recall or not."""


def _labelled(queries: Sequence[RankQuery], targets: Targets) -> list[LabelledRequest]:
    chosen = targets.warm if targets.warm.sum() >= MIN_WARM_REQUESTS else np.ones(len(targets), np.bool_)
    rows = zip(queries, relevant_lists(targets), chosen, strict=True)
    return [
        LabelledRequest(query.candidates, np.isin(query.candidates.item_ids, relevant), len(relevant))
        for query, relevant, wanted in rows
        if wanted
    ]


def _search_weights(
    requests: list[LabelledRequest], policy: ServingPolicy, config: BlendConfig
) -> tuple[ServingPolicy, float]:
    best, best_value = policy, _quality(requests, policy)
    for _ in range(config.sweeps):
        before = best
        for position in range(len(policy.channels)):
            for weight in config.weights:
                trial = _with_weight(best, position, weight)
                value = _quality(requests, trial)
                if value > best_value:
                    best, best_value = trial, value
        if best == before:
            break
    return best, best_value


def _with_weight(policy: ServingPolicy, position: int, weight: float) -> ServingPolicy:
    channels = list(policy.channels)
    channels[position] = channels[position].model_copy(update={"weight": weight})
    return policy.model_copy(update={"channels": tuple(channels)})


def _order(candidates: Candidates, policy: ServingPolicy) -> NDArray[np.int64]:
    return np.lexsort((candidates.item_ids, -blended_scores(candidates, policy)))


def _quality(requests: list[LabelledRequest], policy: ServingPolicy) -> float:
    hits = np.zeros((len(requests), LONGEST), np.bool_)
    for row, request in enumerate(requests):
        listed = request.relevant[_order(request.candidates, policy)[:LONGEST]]
        hits[row, : len(listed)] = listed
    counts = np.asarray([request.relevant_count for request in requests], np.int64)
    return float(per_request(hits, counts, cuts=(10,))[METRIC].mean())


def _smallest_count(requests: list[LabelledRequest], policy: ServingPolicy, config: BlendConfig) -> int:
    everything = sum(int(request.relevant.sum()) for request in requests)
    counts = sorted(config.rank_counts)
    for count in counts[:-1]:
        kept = sum(int(request.relevant[_order(request.candidates, policy)[:count]].sum()) for request in requests)
        if kept >= config.retained * everything:
            return count
    return counts[-1]
