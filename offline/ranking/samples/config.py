"""Settings of the ranker's samples."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SamplesConfig(BaseModel):
    """Which requests become training data, and which of their candidates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_users: int = Field(default=1_500, ge=1, description="maximum number of users per window, sampled at random")
    candidates: Literal["all", "mixed"] = Field(
        default="all",
        description="all: everything that recall returned, as serving ranks it; mixed: what is relevant of it, and "
        "so many negatives of three kinds (for the folds the ranker learns from; validation has all)",
    )
    negatives: int = Field(default=9, ge=1, description="mixed: negatives per relevant candidate")
    hard_share: float = Field(
        default=0.6, ge=0, le=1, description="mixed: share of the negatives that come from recall"
    )
    popular_share: float = Field(
        default=0.2, ge=0, le=1, description="mixed: share drawn by popularity; the rest is drawn evenly from all items"
    )
    svd_rating: bool = Field(
        default=False, description="whether the predicted rating is a feature; a rating model is trained per cut-off"
    )
    shard_requests: int = Field(default=256, ge=1, description="requests that are in memory at a time, per process")
    workers: int = Field(default=1, ge=1, le=256, description="processes; the samples are the same for any number")
    seed: int = Field(default=1, ge=0, description="seed of the sampled negatives")

    def outcome(self, *, evaluated: bool) -> SamplesConfig:
        """What decides the samples: not the number of processes, nor the negatives where rankers are evaluated."""
        if evaluated:
            return self.model_copy(update={"workers": 1, "candidates": "all"})
        return self.model_copy(update={"workers": 1})
