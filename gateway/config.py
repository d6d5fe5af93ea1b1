"""Settings of the gateway process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from recsys.config import METRICS_PORTS, PORTS, ServerConfig

RANKER = "rank"
"""Name of the rank server among the backends, and its role in the bundle."""


Target = Annotated[str, Field(pattern=r"^\S+:[0-9]+$")]
"""HOST:PORT."""


def _local(role: str) -> str:
    return f"127.0.0.1:{PORTS[role]}"


class GatewayConfig(ServerConfig):
    """What the gateway is told besides what every process is told."""

    port: int = Field(default=PORTS["gateway"], ge=0, le=65_535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        default=METRICS_PORTS["gateway"], ge=0, le=65_535, description="port of /metrics, on the same host"
    )
    max_message_mib: int = Field(
        default=4, ge=1, le=1024, description="largest message that is accepted from clients, in MiB"
    )
    recall: dict[str, Target] = Field(
        default={name: _local(name) for name in ("popularity", "itemcf", "vector", "als", "content")},
        description="where each recall channel listens: NAME=HOST:PORT, separated by commas; a JSON object in "
        "the environment, a table in the file; those that the bundle's policy does not name are left alone",
    )
    rank: Target = Field(default=_local(RANKER), description="where the rank server listens: HOST:PORT")
    events_file: Path = Field(
        default=Path("data/demo/events/events.sqlite"), description="SQLite file that recorded events go to"
    )
    answers_file: Path = Field(
        default=Path("data/demo/events/answers.sqlite"), description="SQLite file that every answer is logged to"
    )
    answers_keep_days: int = Field(default=30, ge=1, description="older answers are deleted from the log")
    hidden_items: Path | None = Field(
        default=None, description="text file of item keys or numbers, one a line, that are never shown; re-read live"
    )
    budget_seconds: float = Field(
        default=0.25, gt=0, description="time for one answer; the caller's deadline counts where it is shorter"
    )
    deadline_margin_seconds: float = Field(
        default=0.01, ge=0, description="part of the caller's deadline that is kept for the way back"
    )
    recall_share: float = Field(default=0.5, gt=0, lt=1, description="part of the budget that recall may use")
    rank_share: float = Field(default=0.8, gt=0, lt=1, description="part of what recall leaves that ranking may use")
    similar_channels: tuple[str, ...] = Field(
        default=("itemcf", "vector"), description="channels that SimilarItems asks"
    )
    rollout_timeout_seconds: float = Field(
        default=30.0, ge=0, description="longest wait for a backend that does not have the released bundle ready"
    )
    probe_seconds: float = Field(default=0.5, gt=0, description="how often each backend is asked for its status")
    reprobe_seconds: float = Field(
        default=0.25, gt=0, description="the same, while the backend is skipped because it failed"
    )
    probe_timeout_seconds: float = Field(default=0.5, gt=0, description="deadline of a probe")
    load_timeout_seconds: float = Field(
        default=30.0, gt=0, description="deadline of a backend that is asked to load a version it does not hold"
    )
    breaker_failures: int = Field(default=3, ge=1, description="failures in a row after which a backend is skipped")
    breaker_window_seconds: float = Field(
        default=10.0, gt=0, description="failures further apart than this do not add up"
    )
    fair_seconds: float = Field(
        default=0.05, ge=0, description="a backend that was given less time than this and was late has not failed"
    )
