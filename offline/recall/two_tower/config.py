"""Configuration of the two-tower model: one typed object per run, unknown keys refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from offline.recall.item_index import ItemIndexConfig
from offline.recall.two_tower.objectives import ObjectiveName


class PooledConfig(BaseModel):
    """Shape and training of the pooled tower, which ranks what a user takes some day and knows trends."""

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
    min_examples: int = Field(
        default=4_000, ge=1, description="minimum number of examples per epoch, for small data sets"
    )
    max_examples: int = Field(
        default=100_000, ge=1, description="maximum number of examples per epoch, for large data sets"
    )
    targets: int = Field(default=16, ge=1, description="later items sampled per example")
    batch_size: int = Field(default=128, ge=1, description="examples per step")
    sampled_negatives: int = Field(
        default=4_096,
        ge=1,
        description="uniform negatives in addition to the in-batch ones; at least the catalogue: exact",
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="AdamW's step size")
    averaging: float = Field(
        default=0.997,
        ge=0,
        lt=1,
        description="decay per step of the averaged weights, which are validated and exported",
    )
    reg: float = Field(default=1.0, ge=0, description="AdamW's weight decay")
    epochs: int = Field(default=10, ge=1, description="maximum number of epochs from scratch")
    patience: int = Field(default=3, ge=1, description="epochs without a better validation NDCG before stopping")
    refit_epochs: int = Field(default=1, ge=0, description="further epochs on everything, validation window included")
    continue_epochs: int = Field(default=1, ge=1, description="epochs when an earlier cut-off's towers are continued")
    validation_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="last share of the events that chooses the number of epochs"
    )


class SequenceConfig(BaseModel):
    """Shape and training of the sequence tower, which predicts the next item."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(default=128, ge=2, description="width of item vectors and of the tower's layers")
    blocks: int = Field(default=2, ge=1, description="self-attention layers")
    heads: int = Field(default=2, ge=1, description="attention heads; they divide the width")
    temperature: float = Field(default=0.06, gt=0, description="scores are cosines divided by this")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="dropout of the input and of each layer's output")
    id_dropout: float = Field(default=0.05, ge=0, lt=1, description="share of items shown without their id in a step")
    text: bool = Field(default=False, description="describe items by the text vectors of the section [text], too")
    loss: ObjectiveName = Field(
        default="cross-entropy", description="loss of each position's prediction of the next item"
    )
    exact_items: int = Field(
        default=20_000,
        ge=0,
        description="cross-entropy is over all items where at most so many have events; else it is estimated from a "
        "sample: the items of the step, and `sampled_negatives` drawn evenly",
    )
    sampled_negatives: int = Field(default=4_096, ge=1, description="uniform items of that sample, per step")
    negatives: int = Field(default=512, ge=1, description="uniform negatives per step, shared by all positions")
    calibration: float = Field(
        default=0.75, ge=0, le=1, description="gBCE's t, between plain BCE (0) and the scores of a softmax (1)"
    )
    events: int = Field(default=1_600, ge=1, description="events per step, padding counted; windows are cut to fit")
    max_steps: int = Field(
        default=5_000, ge=1, description="maximum number of steps per epoch; of more, random ones are taken each time"
    )
    precision: Literal["auto", "full", "mixed"] = Field(
        default="auto", description="32-bit layers, or 16-bit ones; auto: mixed on CUDA"
    )
    learning_rate: float = Field(default=6e-3, gt=0, description="AdamW's largest step size")
    reg: float = Field(default=0.01, ge=0, description="AdamW's weight decay")
    warmup: float = Field(default=0.04, ge=0, le=1, description="share of the steps in which the step size rises")
    averaging: float = Field(
        default=0.995,
        ge=0,
        lt=1,
        description="decay per step of the averaged weights, which are validated and exported",
    )
    epochs: int = Field(
        default=10, ge=1, description="maximum number of epochs from scratch; the step size falls to 0 over them"
    )
    patience: int = Field(default=3, ge=1, description="epochs without a better validation NDCG before stopping")
    refit_epochs: int = Field(
        default=1, ge=0, description="further epochs on everything, each user's latest event included"
    )
    continue_epochs: int = Field(default=2, ge=1, description="epochs when an earlier cut-off's towers are continued")
    refit_rate: float = Field(
        default=0.1, gt=0, le=1, description="share of the step size that refits and continued trainings begin with"
    )


class TwoTowerConfig(ItemIndexConfig):
    """Which towers are trained, and what both kinds share: histories, validation, machine, index."""

    tower: Literal["pooled", "sequence"] = Field(
        default="pooled",
        description="user tower: pooled ranks what a user takes some day and knows trends, sequence what comes next",
    )
    history_limit: int = Field(default=200, ge=1, le=200, description="latest events the user tower reads")
    validation_users: int = Field(default=2_000, ge=1, description="maximum number of users in validation")

    seed: int = Field(default=1, ge=0, description="seed of all random draws")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="auto: the fastest one present")
    threads: int = Field(
        default=1, ge=1, description="CPU threads of PyTorch; more are slower where other processes share the cores"
    )

    parity_tolerance: float = Field(default=1e-4, gt=0, description="largest difference of the ONNX tower to PyTorch's")

    pooled: PooledConfig = PooledConfig()
    sequence: SequenceConfig = SequenceConfig()

    @property
    def trained(self) -> PooledConfig | SequenceConfig:
        """The section of the towers that are trained."""
        return self.sequence if self.tower == "sequence" else self.pooled

    @property
    def reads_text(self) -> bool:
        """Whether the towers read the text vectors of items."""
        return self.tower == "sequence" and self.sequence.text
