"""The rankers that there are, by name."""

from __future__ import annotations

from offline.ranking.rankers.config import RankerConfigs
from offline.ranking.rankers.kind import RankerKind
from offline.ranking.rankers.network.ranker import NetworkRanker
from offline.ranking.rankers.svd_export import RatingRanker
from offline.ranking.rankers.trees import TreeRanker


def kind_of(name: str, configs: RankerConfigs) -> RankerKind:
    """The ranker of one name of `RankerConfig.candidates`."""
    kinds: dict[str, RankerKind] = {
        TreeRanker.name: TreeRanker(configs.lightgbm),
        NetworkRanker.name: NetworkRanker(configs.network),
        RatingRanker.name: RatingRanker(configs.rating),
    }
    return kinds[name]
