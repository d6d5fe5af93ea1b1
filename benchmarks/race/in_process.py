"""The whole recommender in one process and one thread: the floor, and what the other servers of the race serve.

It is the gateway's pipeline without what a gateway is for: the same functions and models, called one after the other,
with no deadlines, no breakers, no reports and no event loop. `race.users` compares its lists with the pipeline's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from race.checkouts import named
from rank_server.scoring import Ranker
from recsys.bundle import BundleStore
from recsys.domain import NO_IDS, Candidates, RankQuery, RecallQuery, RecallResult, Scores

apply_filters, best_first = named("apply_filters"), named("best_first")
blended_scores, merge = named("blended_scores"), named("merge")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has begun."""

    request: Any
    """A `gateway.pipeline.request.Request`."""
    sequence: Any
    seen_item_ids: Any

    def recall_query(self, policy: Any) -> RecallQuery:
        """What a channel is asked."""
        request = self.request
        history, count = self.sequence.last(policy.history_limit), max(policy.count, request.count)
        return RecallQuery(history, request.as_of, count, self.seen_item_ids, user_id=request.user_id)

    def rank_query(self, policy: Any, candidates: Candidates) -> RankQuery:
        """What the ranker is asked."""
        history = self.sequence.last(policy.rank_history_limit)
        return RankQuery(history, self.request.as_of, candidates, user_id=self.request.user_id)


Answer = tuple[Candidates, Scores]
"""Items, best first, and their scores."""


class Gateway:
    """What a gateway does between its calls, with the gateway's files of a bundle."""

    def __init__(self, served: Any) -> None:
        """`served`: a `ServedBundle`."""
        self.served = served
        self.policy = served.manifest.policy
        if self.policy.rerank is not None or self.policy.ranking != "ranked":
            raise ValueError(
                f"bundle {served.version} re-ranks or serves no ranked order; the race is for one that ranks"
            )
        self._request = named("Request")
        item_ids, texts = served.catalogue.item_ids.tolist(), served.texts
        titles = [json.dumps(title) for title in texts.titles]
        # What a body says of an item does not depend on the request, so it is written once.
        self._items = [
            f'{{"item_id":{item_id},"item_key":{json.dumps(key)},"title":{title},"score":'
            for item_id, key, title in zip(item_ids, texts.keys, titles, strict=True)
        ]
        self._seeds = [
            f',"seed_item_id":{item_id},"seed_title":{title}}}' for item_id, title in zip(item_ids, titles, strict=True)
        ]

    @classmethod
    def open(cls, bundle_root: Path) -> Self:
        """Loads the gateway's files of the released bundle of the store at `bundle_root`."""
        store = BundleStore(bundle_root)
        return cls(named("ServedBundle").load(store.open(store.release().current), ""))

    def ask(self, user_id: int, count: int) -> Asked:
        """A user's request with the stored history, resolved as the gateway does it."""
        history = self.served.history(self.served.user(user_id, None), ())
        as_of = self.served.as_of(history, 0)
        request = self._request(history.until(as_of), as_of, count, user_id=user_id)
        return Asked(request, request.history.sequence(), request.history.seen_item_ids())

    def to_rank(self, asked: Asked, results: Mapping[str, RecallResult]) -> Candidates:
        """The candidates of all channels, by name in the order of the policy: merged, filtered, best of the blend."""
        count = asked.request.count
        candidates = merge(results)
        if len(candidates) < count:
            query = RecallQuery(asked.sequence.last(0), asked.request.as_of, count, asked.seen_item_ids)
            candidates = merge({**results, "fallback": self.served.fallback.recall(query)})
        candidates = apply_filters(
            candidates,
            self.served.catalogue,
            forbidden_ids=asked.seen_item_ids,
            hidden_ids=NO_IDS,
            item_filter=asked.request.item_filter,
        ).kept
        candidates, _ = best_first(candidates, blended_scores(candidates, self.policy))
        return candidates.take(slice(0, max(self.policy.rank_count, count)))

    def finish(self, asked: Asked, candidates: Candidates, scores: Scores) -> Answer:
        """The answer that the ranker's scores of the candidates give."""
        candidates, scores = best_first(candidates, scores)
        return candidates.take(slice(0, asked.request.count)), scores[: asked.request.count]

    def body(self, answer: Answer) -> bytes:
        """The answer as JSON, with everything that `recsys.v1.RecommendResponse` says about the items."""
        candidates, scores = answer
        present, rows_of = candidates.seed_present, self.served.catalogue.rows
        seed_rows = iter(rows_of(candidates.seed_item_ids[present]).tolist())
        rows, ranks_of = rows_of(candidates.item_ids).tolist(), candidates.ranks.tolist()
        items = []
        for row, score, ranks, seeded in zip(rows, scores.tolist(), ranks_of, present.tolist(), strict=True):
            reasons = []
            for channel, rank, has_seed in zip(candidates.channels, ranks, seeded, strict=True):
                end = self._seeds[next(seed_rows)] if has_seed else "}"
                if rank > 0:
                    reasons.append((rank, f'{{"channel":"{channel}","rank":{rank}{end}'))
            reasons.sort()
            facts = ",".join([text for _, text in reasons])
            items.append(f'{self._items[row]}{score!r},"reasons":[{facts}]}}')
        version, listed = self.served.version, ",".join(items)
        return f'{{"bundle_version":"{version}","degraded":false,"items":[{listed}]}}'.encode()


class InProcess:
    """Gateway, channels and ranker of one bundle."""

    def __init__(self, gateway: Gateway, channels: Mapping[str, Any], ranker: Ranker) -> None:
        self.gateway = gateway
        self._channels = channels
        self._ranker = ranker

    @classmethod
    def open(cls, bundle_root: Path) -> Self:
        """Loads the released bundle of the store at `bundle_root`."""
        store = BundleStore(bundle_root)
        bundle = store.open(store.release().current)
        channel_class = named("channel_class")
        names = [policy.name for policy in bundle.manifest.policy.channels]
        channels = {name: channel_class(name).open(bundle.folder) for name in names}
        return cls(Gateway.open(bundle_root), channels, Ranker.open(bundle.folder))

    def answers(self, batch: Sequence[Asked]) -> list[Answer]:
        """Answers a batch, in order, with one call of each model."""
        gateway, policy = self.gateway, self.gateway.policy
        found = {
            channel.name: self._channels[channel.name].recall([asked.recall_query(channel) for asked in batch])
            for channel in policy.channels
        }
        candidates = [
            gateway.to_rank(asked, {name: results[place] for name, results in found.items()})
            for place, asked in enumerate(batch)
        ]
        queries = [asked.rank_query(policy, own) for asked, own in zip(batch, candidates, strict=True)]
        scores = self._ranker.score(queries)
        return [gateway.finish(*parts) for parts in zip(batch, candidates, scores, strict=True)]

    def bodies(self, user_ids: Sequence[int], count: int) -> list[bytes]:
        """A body per user, from the request to the last byte."""
        batch = [self.gateway.ask(user_id, count) for user_id in user_ids]
        return [self.gateway.body(answer) for answer in self.answers(batch)]
