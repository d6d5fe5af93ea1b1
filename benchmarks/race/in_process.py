"""The whole recommender in this process: the floor, the monoliths, and what every server's lists must equal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from race.checkouts import named
from rank_server.scoring import Ranker
from recsys.bundle import BundleStore

COUNT = 10
"""Items per request."""

UNLIMITED_SECONDS = 3_600.0
"""In one process nothing is late."""


class InProcess:
    """Pipeline, models and texts of a published bundle."""

    def __init__(self, bundle: Any, pipeline: Any) -> None:
        """`bundle`: a `ServedBundle`, `pipeline`: a `Pipeline` over sources in this process."""
        self._bundle = bundle
        self._pipeline = pipeline
        self._budget, self._request = named("Budget"), named("Request")
        texts, item_ids = bundle.texts, bundle.catalogue.item_ids.tolist()
        titles = [json.dumps(title) for title in texts.titles]
        # What a body says about an item does not depend on the request, so it is written once.
        self._items = [
            f'{{"item_id":{item_id},"item_key":{json.dumps(key)},"title":{title},"score":'
            for item_id, key, title in zip(item_ids, texts.keys, titles, strict=True)
        ]
        self._seeds = [
            f',"seed_item_id":{item_id},"seed_title":{title}}}' for item_id, title in zip(item_ids, titles, strict=True)
        ]

    @classmethod
    def open(cls, bundle_root: Path) -> Self:
        """Loads the released bundle of the store at `bundle_root`."""
        store = BundleStore(bundle_root)
        bundle = store.open(store.release().current)
        served = named("ServedBundle").load(bundle, "")
        policy, channel_class = bundle.manifest.policy, named("channel_class")
        sources = [
            named("ChannelSource")(channel_class(channel.name).open(bundle.folder)) for channel in policy.channels
        ]
        ranker = named("RankerSource")(Ranker.open(bundle.folder))
        pipeline = named("Pipeline")(
            served.catalogue, policy, sources, ranker, served.fallback, reranker=served.reranker
        )
        return cls(served, pipeline)

    def request(self, user_id: int, count: int = COUNT) -> Any:
        """A user's request with the stored history, as the gateway resolves it."""
        user = self._bundle.user(user_id, None)
        history = self._bundle.history(user, ())
        as_of = self._bundle.as_of(history, 0)
        return self._request(history.until(as_of), as_of, count, user_id=user_id)

    async def answers(self, requests: Sequence[Any]) -> list[Any]:
        """Answers a batch, in order; raises RuntimeError for an answer that lacks something."""
        answers: list[Any] = await self._pipeline.run(requests, self._budget.of(UNLIMITED_SECONDS))
        for answer in answers:
            if answer.degraded:
                raise RuntimeError(f"degraded in one process: {[stage.cause for stage in answer.stages]}")
        return answers

    def body(self, answer: Any) -> bytes:
        """The answer as JSON, with everything that `recsys.v1.RecommendResponse` tells about the items."""
        candidates, rows_of = answer.candidates, self._bundle.catalogue.rows
        present = candidates.seed_present
        seed_rows = iter(rows_of(candidates.seed_item_ids[present]).tolist())
        parts = []
        columns = zip(
            rows_of(candidates.item_ids).tolist(),
            answer.scores.tolist(),
            candidates.ranks.tolist(),
            present.tolist(),
            strict=True,
        )
        for row, score, ranks, seeded in columns:
            reasons = []
            for channel, rank, has_seed in zip(candidates.channels, ranks, seeded, strict=True):
                seed = self._seeds[next(seed_rows)] if has_seed else "}"
                if rank > 0:
                    reasons.append((rank, f'{{"channel":"{channel}","rank":{rank}{seed}'))
            reasons.sort()
            found = ",".join([text for _, text in reasons])
            parts.append(f'{self._items[row]}{score!r},"reasons":[{found}]}}')
        version = self._bundle.version
        return f'{{"bundle_version":"{version}","degraded":false,"items":[{",".join(parts)}]}}'.encode()
