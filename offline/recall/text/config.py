"""Where text vectors come from."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TextConfig(BaseModel):
    """Text vectors of items: title, year, genres, people and overview as one text each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["none", "local", "endpoint"] = Field(
        default="local",
        description="local: TF-IDF and truncated SVD, made here without a network; endpoint: an OpenAI-compatible "
        "embeddings endpoint; none: no text vectors",
    )
    dimensions: int | None = Field(
        default=None,
        ge=2,
        le=8_192,
        description="width of the vectors; absent: 64 for local, what the model gives for an endpoint. Sent to the "
        "endpoint where set; not every model can be shortened",
    )
    max_characters: int = Field(
        default=6_000, ge=100, le=100_000, description="longest text; the rest of a longer one is left out"
    )
    seed: int = Field(default=1, ge=0, description="local: seed of the truncated SVD")

    url: str = Field(
        default="https://api.openai.com/v1",
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="endpoint: base address, with or without /embeddings at its end",
    )
    model: str = Field(default="text-embedding-3-small", min_length=1, description="endpoint: name of the model")
    key_variable: str = Field(
        default="OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="endpoint: environment variable that holds the key; where it is not set, none is sent",
    )
    batch_size: int = Field(
        default=64,
        ge=1,
        le=2_048,
        description="endpoint: texts per request; vendors allow from 10 to 2048. A request that is refused as too "
        "large is halved",
    )
    threads: int = Field(default=4, ge=1, le=64, description="endpoint: requests at the same time")
    attempts: int = Field(default=6, ge=1, le=20, description="endpoint: tries per request before giving up")
    timeout_seconds: float = Field(default=60.0, gt=0, description="endpoint: how long it may be silent")
    longest_wait_seconds: float = Field(
        default=60.0, ge=0, description="endpoint: longest wait before a new try; one that asks for more ends the run"
    )
