"""Configuration of the two-tower model: one typed object per run, unknown keys refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from offline.recall.two_tower.objectives import ObjectiveName


class SequenceConfig(BaseModel):
    """Shape and training of the sequence tower; what is not named here it shares with the pooled one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence_size: int = Field(default=128, ge=2, description="sequence tower: width of item vectors and of its layers")
    sequence_blocks: int = Field(default=2, ge=1, description="sequence tower: self-attention layers")
    sequence_heads: int = Field(default=2, ge=1, description="sequence tower: attention heads; they divide the width")
    sequence_temperature: float = Field(
        default=0.06, gt=0, description="sequence tower: scores are cosines divided by this"
    )
    sequence_dropout: float = Field(
        default=0.2, ge=0, lt=1, description="sequence tower: dropout of its input and of each layer's output"
    )
    sequence_id_dropout: float = Field(
        default=0.05, ge=0, lt=1, description="sequence tower: share of items shown without their id in a step"
    )
    sequence_text: bool = Field(
        default=False, description="sequence tower: describe items by the text vectors of the section [text], too"
    )
    sequence_loss: ObjectiveName = Field(
        default="cross-entropy", description="sequence tower: what each position's next item is scored by"
    )
    sequence_negatives: int = Field(
        default=512, ge=1, description="sequence tower: uniform negatives per step, shared by all positions"
    )
    sequence_calibration: float = Field(
        default=0.75, ge=0, le=1, description="sequence tower: gBCE's t, between plain BCE and softmax's scores"
    )
    sequence_events: int = Field(
        default=1_600, ge=1, description="sequence tower: events per step, padding counted; windows are cut to fit"
    )
    sequence_learning_rate: float = Field(default=6e-3, gt=0, description="sequence tower: AdamW's largest step size")
    sequence_reg: float = Field(default=0.01, ge=0, description="sequence tower: AdamW's weight decay")
    sequence_warmup: float = Field(
        default=0.04, ge=0, le=1, description="sequence tower: share of the steps in which the step size rises"
    )
    sequence_averaging: float = Field(
        default=0.995, ge=0, lt=1, description="sequence tower: what averaged weights keep per step"
    )
    sequence_epochs: int = Field(
        default=10, ge=1, description="sequence tower: epochs from scratch; the step size falls to 0 over them"
    )
    sequence_patience: int = Field(
        default=3, ge=1, description="sequence tower: epochs without a better validation NDCG before stopping"
    )
    sequence_refit_epochs: int = Field(
        default=1, ge=0, description="sequence tower: epochs on everything, each user's latest event included"
    )
    sequence_continue_epochs: int = Field(
        default=2, ge=1, description="sequence tower: epochs when an earlier cut-off's towers are continued"
    )
    precision: Literal["auto", "full", "mixed"] = Field(
        default="auto", description="sequence tower: 32-bit layers, or 16-bit ones; auto: mixed on CUDA"
    )
    sequence_refit_rate: float = Field(
        default=0.1, gt=0, le=1, description="sequence tower: share of the step size that refits begin with"
    )


class TwoTowerConfig(SequenceConfig):
    """Shape, training and export of the two towers."""

    tower: Literal["pooled", "sequence"] = Field(
        default="pooled",
        description="user tower: pooled ranks what a user takes some day and knows trends, sequence what comes next",
    )

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

    @property
    def reads_text(self) -> bool:
        """Whether the towers are told what items' texts say."""
        return self.tower == "sequence" and self.sequence_text
