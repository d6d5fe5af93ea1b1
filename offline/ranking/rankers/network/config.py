"""Configuration of the ranking network: one typed object per run, unknown keys refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class NetworkConfig(BaseModel):
    """Shape and training of the network ranker: DIN, DCN-V2 and MMoE."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attention: bool = Field(default=True, description="DIN: candidates attend to the history; else its mean is taken")
    crosses: bool = Field(default=True, description="DCN-V2: explicit crosses of the inputs next to the deep layers")
    experts: int = Field(default=4, ge=1, description="MMoE: experts that the three tasks mix; 1: one task, no gates")

    embedding_size: int = Field(default=32, ge=2, description="length of the item vectors")
    attention_size: int = Field(default=8, ge=1, description="hidden width of the attention unit")
    history_limit: int = Field(default=50, ge=1, le=200, description="latest events that candidates attend to")
    cross_layers: int = Field(default=2, ge=1, description="cross layers")
    cross_rank: int = Field(default=32, ge=1, description="rank of the matrix of a cross layer")
    hidden: int = Field(default=64, ge=2, description="width of the deep layers and of an expert")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="dropout of inputs of the deep layers and experts")

    epochs: int = Field(default=6, ge=1, description="maximum number of passes over the requests; validation chooses")
    patience: int = Field(default=2, ge=1, description="passes without a better validation before training stops")
    batch_size: int = Field(default=16, ge=1, description="requests per step")
    candidates: int = Field(
        default=60, ge=2, description="maximum number of candidates per request in a step, drawn again each time"
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description="Adam's learning rate, decayed to a tenth on a cosine schedule"
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled weight decay of all but item vectors")
    fused_weight: float = Field(default=50.0, ge=0, description="weight of the fused order that training starts from")
    liked: float = Field(default=4.0, description="minimum rating that counts as a like")
    like_weight: float = Field(default=0.3, ge=0, description="weight of the task 'will like' in the loss")
    rating_weight: float = Field(default=0.1, ge=0, description="weight of the task 'rating' in the loss")
    threads: int = Field(default=2, ge=1, description="threads of PyTorch")
    seed: int = Field(default=1, ge=0, description="seed of everything random")
