"""Which columns of the feature matrix are computed: all of them, or those that a ranker reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from recsys.domain import NO_IDS, Ids
from recsys.features.credits import PEOPLE_NAMES
from recsys.features.crosses import CROSS_NAMES, evidence_names
from recsys.features.items import ITEM_NAMES
from recsys.features.ranks import RANK_NAMES
from recsys.features.sessions import SESSION_NAMES
from recsys.features.similarity import SIMILARITY_NAMES
from recsys.features.user import USER_NAMES

RATING_NAME = "cross_svd_rating"
STAGE_NAME = "cross_stage_count"


def feature_groups(channels: Sequence[str], *, rated: bool) -> dict[str, tuple[str, ...]]:
    """Names of features by what they are made from, in the order of the matrix: with evidence of `channels`, and with a
    rating model where `rated`."""
    return {
        "items": ITEM_NAMES,
        "users": (*USER_NAMES, *SESSION_NAMES),
        "crosses": CROSS_NAMES,
        "stage": (STAGE_NAME,),
        "similarity": SIMILARITY_NAMES,
        "people": PEOPLE_NAMES,
        "rating": (RATING_NAME,) if rated else (),
        "ranks": RANK_NAMES,
        "evidence": evidence_names(channels),
    }


@dataclass(frozen=True, slots=True)
class Selection:
    """Some columns of the feature matrix, in an order of their own."""

    width: int
    """Number of columns."""
    columns: Mapping[str, Ids]
    """By group, int64[features of the group]: the column of each feature, -1 where nobody wants it."""

    @classmethod
    def of(cls, groups: Mapping[str, Sequence[str]], chosen: Sequence[int] | None) -> Self:
        """The features at positions `chosen` of all names of `groups`, in that order, each once; None: all of them."""
        n = sum(len(names) for names in groups.values())
        positions = np.arange(n) if chosen is None else np.asarray(chosen, np.int64)
        if len(np.unique(positions)) != len(positions) or not np.isin(positions, np.arange(n)).all():
            raise ValueError(f"columns {positions.tolist()}: expected distinct positions of {n} features")
        columns = np.full(n, -1, np.int64)
        columns[positions] = np.arange(len(positions))
        ends = np.cumsum([len(names) for names in groups.values()])
        return cls(len(positions), dict(zip(groups, np.split(columns, ends[:-1]), strict=True)))

    def wants(self, *groups: str) -> bool:
        """Whether any feature of these groups has a column."""
        return any((self.columns[group] >= 0).any() for group in groups)

    def pick(self, computed: Collection[str]) -> Ids:
        """int64[width]: where the columns stand in a matrix of all features of the groups `computed`, in order."""
        columns = np.concatenate([NO_IDS, *(self.columns[group] for group in self.columns if group in computed)])
        found = np.empty(self.width, np.int64)
        found[columns[columns >= 0]] = np.flatnonzero(columns >= 0)
        return found
