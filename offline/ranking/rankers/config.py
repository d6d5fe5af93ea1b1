"""Which rankers are trained and which one is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.svd import RatingConfig
from offline.ranking.rankers.trees import LightGBMConfig

Kind = Literal["lightgbm", "network", "svd"]


class RankerConfig(BaseModel):
    """Which rankers are trained, which one is published, and which requests they learn from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["auto", "lightgbm", "network", "svd", "blend"] = Field(
        default="auto",
        description="the ranker that is published; blend: a weighted sum of all candidates; auto: what is best on "
        "validation among the candidates and, where there are several, their blend",
    )
    candidates: tuple[Kind, ...] = Field(
        default=("lightgbm",), min_length=1, description="rankers that are trained and compared on validation"
    )
    blend_steps: int = Field(default=10, ge=1, description="a blend's weights are multiples of one divided by this")
    blend_gain: float = Field(
        default=0.002,
        ge=0,
        description="minimum lead in NDCG@10 over the best candidate for a blend to be published",
    )
    cold_share: float = Field(
        default=0.3, ge=0, description="maximum number of requests without a history per request with one, in training"
    )
    seed: int = Field(default=1, ge=0, description="seed of the random sample of requests without a history")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.kind == "blend" and len(set(self.candidates)) < 2:
            raise ValueError(
                f"kind blend needs two candidates or more, found {', '.join(self.candidates)}; name them in candidates"
            )
        return self

    @property
    def needs_rating(self) -> bool:
        """Whether a ranker needs the rating model."""
        return "svd" in self.tried

    @property
    def tried(self) -> tuple[Kind, ...]:
        """The candidates, and `kind` where it is none of them; no repeats."""
        named = () if self.kind in ("auto", "blend") else (self.kind,)
        return tuple(dict.fromkeys((*self.candidates, *named)))


@dataclass(frozen=True, slots=True)
class RankerConfigs:
    """Configuration of every ranker, and of the choice between them."""

    ranker: RankerConfig
    lightgbm: LightGBMConfig
    network: NetworkConfig
    rating: RatingConfig
