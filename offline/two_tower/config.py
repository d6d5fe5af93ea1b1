"""Configuration of the two-tower model: one typed object per run, unknown keys refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TwoTowerConfig(BaseModel):
    """Shape, training and export of the two towers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding_size: int = Field(default=64, ge=2, description="width of the id embeddings and of the latent vectors")
    heads: int = Field(default=4, ge=1, description="attention heads that pool the history")
    hidden: int = Field(default=128, ge=2, description="width of the user tower's hidden layer")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="dropout before the user tower's hidden layer")
    event_dropout: float = Field(
        default=0.2, ge=0, lt=1, description="share of a history's events hidden in training, so that none is relied on"
    )
    id_dropout: float = Field(
        default=0.2, ge=0, lt=1, description="share of items shown without their id, so that genres and year carry it"
    )
    history_limit: int = Field(default=200, ge=1, le=200, description="latest events the user tower reads")
    cold_fraction: float = Field(
        default=0.02, ge=0, lt=1, description="share of examples without history: they train the cold vector"
    )

    half_lives_days: tuple[float, ...] = Field(
        default=(7.0, 30.0, 365.0), min_length=1, description="popularity dimensions of the vectors, by half-life"
    )
    moments: int = Field(default=64, ge=1, description="moments of the past at which popularity is known in training")
    moment_share: float = Field(
        default=0.25, ge=0, le=1, description="share of examples cut at a moment common to all users, as serving cuts"
    )
    recency_half_life_days: float = Field(
        default=30.0, gt=0, description="an example this much older is half as likely to be drawn"
    )

    examples_per_user: int = Field(default=2, ge=1, description="examples drawn per user and epoch, on average")
    least_examples: int = Field(default=4_000, ge=1, description="fewest examples per epoch, for small data sets")
    most_examples: int = Field(default=100_000, ge=1, description="most examples per epoch, for large data sets")
    targets: int = Field(default=16, ge=1, description="later items sampled per example")
    batch_size: int = Field(default=128, ge=1, description="examples per step")
    sampled_negatives: int = Field(
        default=4_096, ge=1, description="uniform negatives beside the in-batch ones; at least the catalogue: exact"
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="AdamW's step size")
    averaging: float = Field(
        default=0.997, ge=0, lt=1, description="what averaged weights keep per step; they are validated and exported"
    )
    reg: float = Field(default=1.0, ge=0, description="AdamW's weight decay")
    epochs: int = Field(default=10, ge=1, description="most epochs from scratch")
    patience: int = Field(default=3, ge=1, description="epochs without a better validation NDCG before stopping")
    refit_epochs: int = Field(default=1, ge=0, description="further epochs on everything, validation window included")
    continue_epochs: int = Field(default=1, ge=1, description="epochs when an earlier cut-off's towers are continued")
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="last share of the events that chooses the number of epochs"
    )
    validation_users: int = Field(default=2_000, ge=1, description="most users in the validation")

    seed: int = Field(default=1, ge=0, description="of every random draw")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="auto: the fastest one present")
    threads: int = Field(
        default=1, ge=1, description="CPU threads of PyTorch; more are slower where other processes share the cores"
    )

    index_links: int = Field(default=32, ge=2, description="hnswlib M: links per item")
    index_ef_construction: int = Field(default=300, ge=1, description="hnswlib ef_construction: width while building")
    index_recall: float = Field(default=0.99, gt=0, le=1, description="least recall@100 against exact search")
    parity_tolerance: float = Field(default=1e-4, gt=0, description="largest difference of the ONNX tower to PyTorch's")
