"""One bundle version as the gateway serves it: its files, and pipelines pinned to the version."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.backends.backends import RankBackend, RecallBackend
from gateway.backends.sources import GrpcRankSource, GrpcRecallSource
from gateway.backends.workers import Workers
from gateway.bundle.hidden import HiddenIds, HiddenItems
from gateway.bundle.served import ServedBundle
from gateway.config import GatewayConfig
from gateway.pipeline.batching import Batcher, BatchLimits
from gateway.pipeline.pipeline import Pipeline
from gateway.pipeline.quality import Quality, QualityLimits
from recsys.bundle import Bundle, ChannelPolicy, ServingPolicy
from recsys.server.telemetry import Telemetry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """What requests are pinned to."""

    bundle: ServedBundle
    recommend: Batcher
    similar: Batcher
    """Queries the item-to-item channels and serves the blended order: no validation has chosen a policy for it."""

    def batcher(self, method: str) -> Batcher | None:
        """What answers calls of a method (Service/Method); None if nothing is batched for it."""
        return {"Recommend": self.recommend, "SimilarItems": self.similar}.get(method.rpartition("/")[2])

    @property
    def version(self) -> str:
        """The bundle version."""
        return self.bundle.version

    @property
    def ranker_name(self) -> str:
        """Name of the ranker if this version's policy uses it; empty if the blended order is served."""
        pipeline = self.recommend.pipeline
        return pipeline.ranker.name if pipeline.ranker is not None and pipeline.policy.ranking == "ranked" else ""

    @property
    def backend_names(self) -> frozenset[str]:
        """Names of the processes that this version's policy uses."""
        return frozenset({*(channel.name for channel in self.recommend.pipeline.policy.channels), self.ranker_name})

    @property
    def known_names(self) -> frozenset[str]:
        """Names of all processes that this version may use, including those for similar items and for ranking."""
        pipelines = (self.recommend.pipeline, self.similar.pipeline)
        rankers = (pipeline.ranker.name for pipeline in pipelines if pipeline.ranker is not None)
        return frozenset({*rankers, *(channel.name for pipeline in pipelines for channel in pipeline.policy.channels)})


@dataclass(frozen=True)
class ServingFactory:
    """Builds a `Serving` from a bundle; `Versions` calls it for every version, in its own thread."""

    config: GatewayConfig
    recall: Sequence[Workers[RecallBackend]]
    rank: Workers[RankBackend]
    hidden: HiddenItems
    telemetry: Telemetry
    log: str
    """Log id of this gateway's recorded events."""

    def load(self, bundle: Bundle) -> Serving:
        """Loads the gateway's files and builds the pipelines."""
        served = ServedBundle.load(bundle, self.log)
        self._compare_logs(served)
        policy = served.manifest.policy
        for channel in policy.channels:
            if channel.name not in self.config.recall:
                logger.warning(
                    "%s: no address of channel %s, so answers are degraded; add it to --recall",
                    served.version,
                    channel.name,
                )
        recommend = replace(self._pipeline(served, policy), reranker=served.reranker)
        similar = self._pipeline(served, self._similar(policy))
        return Serving(served, self._batched(recommend), self._batched(similar))

    def _batched(self, pipeline: Pipeline) -> Batcher:
        limits = BatchLimits(self.config.batch_size, self.config.batches_in_flight)
        if self.config.adaptive_quality:
            pipeline = replace(pipeline, quality=Quality(QualityLimits(floor=self.config.quality_floor)))
        return Batcher(pipeline, limits, observe=self.telemetry.batch_size.observe)

    def _compare_logs(self, served: ServedBundle) -> None:
        """Warns if the bundle holds events, but none of this gateway's log: it was recreated, or never ingested."""
        known = served.manifest.events_watermarks
        if known and self.log not in known:
            logger.warning(
                "%s: holds recorded events of log %s, none of log %s in %s: all events recorded there count as later "
                "than the bundle; add them with `python -m offline ingest --events-from %s` before the next training",
                served.version,
                ", ".join(sorted(known)),
                self.log,
                self.config.events_file,
                self.config.events_file,
            )

    def _pipeline(self, served: ServedBundle, policy: ServingPolicy) -> Pipeline:
        return Pipeline(
            served.catalogue,
            policy,
            [GrpcRecallSource(workers, served.version, self.telemetry) for workers in self.recall],
            GrpcRankSource(self.rank, served.version, self.telemetry),
            served.fallback,
            HiddenIds(self.hidden, served.identities),
            self.config.recall_share,
            self.config.channel_shares,
            self.config.rank_share,
        )

    def _similar(self, policy: ServingPolicy) -> ServingPolicy:
        """If the policy names none of `similar_channels`, all of them are queried: popularity alone is no answer."""
        channels = tuple(
            channel.model_copy(update={"weight": 1.0})
            for channel in policy.channels
            if channel.name in self.config.similar_channels
        ) or tuple(ChannelPolicy(name=name, count=1, weight=1.0) for name in self.config.similar_channels)
        return policy.model_copy(update={"channels": channels, "ranking": "blended"})
