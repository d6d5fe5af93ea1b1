"""Ray Serve with the recommender in five deployments: an ingress, three channels and the ranker.

    RACE_BUNDLES=ROOT python -m race.ray_serve PORT

Serves until standard input closes. Channels and ranker take what waits as a batch, without waiting for more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from race.checkouts import named
from race.in_process import Gateway
from rank_server.scoring import Ranker
from recsys.bundle import BundleStore
from recsys.domain import RankQuery, RecallQuery, RecallResult, Scores

LIMITS: dict[str, Any] = {"max_ongoing_requests": 1_000, "ray_actor_options": {"num_cpus": 0}}
BATCH: dict[str, Any] = {"max_batch_size": 16, "batch_wait_timeout_s": 0}


@serve.deployment(**LIMITS)
class Recall:
    """One channel."""

    def __init__(self, bundle_root: str, name: str) -> None:
        store = BundleStore(Path(bundle_root))
        self._channel = named("channel_class")(name).open(store.open(store.release().current).folder)

    @serve.batch(**BATCH)  # type: ignore[untyped-decorator]
    async def recall(self, queries: Sequence[RecallQuery]) -> list[RecallResult]:
        """Asks the channel."""
        results: list[RecallResult] = self._channel.recall(queries)
        return results


@serve.deployment(**LIMITS)
class Rank:
    """The ranker."""

    def __init__(self, bundle_root: str) -> None:
        store = BundleStore(Path(bundle_root))
        self._ranker = Ranker.open(store.open(store.release().current).folder)

    @serve.batch(**BATCH)  # type: ignore[untyped-decorator]
    async def score(self, queries: Sequence[RankQuery]) -> list[Scores]:
        """Asks the ranker."""
        return self._ranker.score(queries)


@serve.deployment(**LIMITS)
class Ingress:
    """What a gateway does."""

    def __init__(self, bundle_root: str, channels: dict[str, DeploymentHandle], ranker: DeploymentHandle) -> None:
        self._gateway = Gateway.open(Path(bundle_root))
        self._channels = channels
        self._ranker = ranker

    async def __call__(self, request: Request) -> Response:
        """The best `count` items for a user."""
        gateway, values = self._gateway, request.query_params
        asked = gateway.ask(int(values["user_id"]), int(values["count"]))
        policies = gateway.policy.channels
        results = await asyncio.gather(
            *(self._channels[policy.name].recall.remote(asked.recall_query(policy)) for policy in policies)
        )
        found = {policy.name: result for policy, result in zip(policies, results, strict=True)}
        candidates = gateway.to_rank(asked, found)
        scores = await self._ranker.score.remote(asked.rank_query(gateway.policy, candidates))
        return Response(gateway.body(gateway.finish(asked, candidates, scores)), media_type="application/json")


def main() -> None:
    """Serves until standard input closes."""
    root, port = os.environ["RACE_BUNDLES"], int(sys.argv[1])
    ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    channels = {
        policy.name: Recall.options(name=policy.name).bind(root, policy.name)
        for policy in Gateway.open(Path(root)).policy.channels
    }
    serve.run(Ingress.bind(root, channels, Rank.bind(root)), route_prefix="/recommend")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        sys.stdin.read()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
