"""How a bundle describes itself. Unknown keys are refused, so that a manifest of another format is never half read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

FORMAT_VERSION = 3
"""Version of the directory layout and of the meaning of every file in it."""

MANIFEST_FILE = "manifest.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Frozen):
    """One file of the bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="hex digest of the content")
    bytes: int = Field(ge=0, description="size")


class ChannelPolicy(_Frozen):
    """How the pipeline queries one recall channel."""

    name: str = Field(description="name of the channel, and its role")
    count: int = Field(ge=1, le=2_000, description="candidates requested from the channel")
    weight: float = Field(ge=0, description="weight in the blended order (weighted reciprocal rank)")
    history_limit: int | None = Field(
        description="latest events that the channel needs; null: all of them, 0: none", ge=0, default=None
    )


class RerankPolicy(_Frozen):
    """How a list is re-ranked (`gateway/pipeline/rerank.py`); a weight of 0 disables its part.

    Weights are in units of relevance, which is -log2(1 + position): 1 compensates for twice the position.
    """

    exposure: float = Field(default=0.0, ge=0, description="largest bonus of an item that lists rarely show")
    genre_calibration: float = Field(default=0.0, ge=0, description="weight of matching the user's shares of genres")
    decade_calibration: float = Field(default=0.0, ge=0, description="weight of matching the user's shares of decades")
    diversity: float = Field(default=0.0, ge=0, description="weight of an item's similarity to those further up (MMR)")
    depth: int = Field(
        default=100, ge=1, le=500, description="candidates that calibration and diversity choose from, best first"
    )

    @property
    def greedy(self) -> bool:
        """Whether items must be picked one by one."""
        return bool(self.genre_calibration or self.decade_calibration or self.diversity)


class ServingPolicy(_Frozen):
    """What evaluation and serving have in common; chosen on validation, stored in the bundle."""

    channels: tuple[ChannelPolicy, ...] = Field(description="the channels that are queried, in this order")
    rank_count: int = Field(ge=1, le=2_000, description="candidates that go to the ranker, best blended first")
    rank_history_limit: int | None = Field(default=None, ge=0, description="latest events that the ranker needs")
    ranking: Literal["ranked", "blended"] = Field(description="which order is served")
    blend_constant: float = Field(default=60.0, gt=0, description="k of reciprocal rank fusion: weight / (k + rank)")
    serving_clock: Literal["wall", "cutoff"] = Field(
        description="the time of a request without as_of: now, or the later of cut-off and the user's last event"
    )
    rerank: RerankPolicy | None = Field(default=None, description="how lists are re-ranked; absent: not at all")

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out an absent `rerank`, so that such a bundle reads as before re-ranking existed."""
        fields: dict[str, Any] = write(self)
        return fields if self.rerank else {name: value for name, value in fields.items() if name != "rerank"}


class IndexFacts(_Frozen):
    """Facts about the hnswlib index; hnswlib itself opens an index of another dim or space without an error."""

    dim: int = Field(ge=1, description="length of a vector")
    space: Literal["ip", "l2", "cosine"] = Field(description="distance, as hnswlib names it")
    dtype: Literal["float32"] = Field(default="float32", description="type of a component")
    count: int = Field(ge=0, description="vectors in the index")


class Manifest(_Frozen):
    """`manifest.json`: identity, time, files per role, policy and figures of one bundle."""

    format_version: int = Field(description="version of the layout and of the meaning of every file")
    bundle_version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="name of the folder")
    purpose: Literal["evaluation", "production"] = Field(description="trained on data up to T2, or on all data")
    dataset: str = Field(description="name of the data set")
    cutoff: int = Field(description="last timestamp in the data of any file of the bundle, Unix seconds")
    events_watermarks: dict[str, int] = Field(
        description="by log id of an events file, row id of the last recorded event that the bundle holds; the "
        "gateway adds the later ones, and all events of a log that is not named here"
    )
    created: str = Field(description="ISO 8601, UTC")
    software_version: str = Field(description="version of the software that published it")
    feature_names: tuple[str, ...] = Field(description="columns of the ranker's feature matrix, in order")
    index: IndexFacts | None = Field(description="the index of the vector channel; null: there is none")
    policy: ServingPolicy = Field(description="how requests are answered")
    roles: dict[str, tuple[str, ...]] = Field(description="files that each role needs, relative to the bundle")
    files: dict[str, FileEntry] = Field(description="every file, relative to the bundle")
    metrics: dict[str, float] = Field(default_factory=dict, description="headline metrics of evaluation")
    sampled: tuple[str, ...] = Field(
        default=(), description="what was learned or measured on a random part of the data, and on how much of it"
    )
