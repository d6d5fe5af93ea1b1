"""Settings of the gateway process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from recsys.channels import CHANNELS
from recsys.config import METRICS_PORTS, PORTS, ServerConfig

RANKER = "rank"
"""Name of the rank server among the backends, and its role in the bundle."""


Addresses = Annotated[str, Field(pattern=r"^[^\s+]+:[0-9]+(\+[^\s+]+:[0-9]+)*$", title="HOST:PORT[+HOST:PORT…]")]
"""Where the processes of one role listen; `--help` shows the title."""


def split_targets(targets: str) -> list[str]:
    """HOST:PORT of each process."""
    return targets.split("+")


def _local(role: str) -> str:
    return f"127.0.0.1:{PORTS[role]}"


class GatewayConfig(ServerConfig):
    """The gateway: takes requests, asks recall channels and the ranker, and records events."""

    main_settings = (
        "config",
        "port",
        "metrics_port",
        "host",
        "bundle_root",
        "recall",
        "rank",
        "events_file",
        "hidden_items",
        "budget_seconds",
    )

    port: int = Field(default=PORTS["gateway"], ge=0, le=65_535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        default=METRICS_PORTS["gateway"], ge=0, le=65_535, description="port of /metrics, on the same host"
    )
    max_message_mib: int = Field(
        default=4, ge=1, le=1024, description="largest message that is accepted from clients, in MiB"
    )
    recall: dict[str, Addresses] = Field(
        default={name: _local(name) for name in CHANNELS},
        description="where each recall channel listens: NAME=HOST:PORT, separated by commas, or several processes of a "
        "channel, NAME=HOST:PORT+HOST:PORT; a JSON object in the environment, a table in the file; those that the "
        "bundle's policy does not name are not called",
    )
    rank: Addresses = Field(
        default=_local(RANKER),
        description="where the rank server listens: HOST:PORT, or several processes, HOST:PORT+HOST:PORT",
    )
    events_file: Path = Field(
        default=Path("data/demo/events/events.sqlite"), description="SQLite file of the recorded events"
    )
    events_write_seconds: float = Field(
        default=2.0, gt=0, description="longest wait of RecordEvents for the events file; then it fails: UNAVAILABLE"
    )
    events_read_seconds: float = Field(
        default=0.1,
        gt=0,
        description="longest wait of an answer for the recorded events of its user; then it does without: degraded",
    )
    answers_file: Path = Field(
        default=Path("data/demo/events/answers.sqlite"), description="SQLite file to which every answer is logged"
    )
    answers_keep_days: int = Field(default=30, ge=1, description="older answers are deleted from the log")
    hidden_items: Path | None = Field(
        default=None, description="text file of item keys or numbers that are never shown, one per line; re-read live"
    )
    hidden_items_seconds: float = Field(
        default=60.0,
        ge=0,
        description="how long a version of hidden_items that hides less than half of what is hidden must stay the same "
        "before it counts: it may be one that is being written",
    )
    budget_seconds: float = Field(
        default=0.25, gt=0, description="time budget of one answer; the caller's deadline counts if it is shorter"
    )
    deadline_margin_seconds: float = Field(
        default=0.01, ge=0, description="part of the caller's deadline that is reserved for sending the answer"
    )
    recall_share: float = Field(default=0.5, gt=0, lt=1, description="share of the budget that recall may use")
    channel_shares: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict,
        description="the same for single channels, where it differs: NAME=SHARE, separated by commas; a slow channel "
        "with a smaller share costs the others no time",
    )
    rank_share: float = Field(default=0.8, gt=0, lt=1, description="share of the remaining budget that ranking may use")
    batch_size: int = Field(default=32, ge=1, le=256, description="most requests that are sent on in one batch")
    batches_in_flight: int = Field(
        default=1, ge=1, description="batches in progress at a time; further requests wait for the next one"
    )
    adaptive_quality: bool = Field(
        default=False,
        description="while stages are slow, live requests get fewer candidates, and their answers are degraded: load",
    )
    quality_floor: float = Field(
        default=0.25, gt=0, le=1, description="least share of the usual candidates with --adaptive-quality"
    )
    similar_channels: tuple[str, ...] = Field(
        default=tuple(name for name, spec in CHANNELS.items() if spec.similar),
        description="channels that SimilarItems queries",
    )
    rollout_timeout_seconds: float = Field(
        default=30.0, ge=0, description="longest wait for backends to have the released bundle ready"
    )
    probe_seconds: float = Field(default=0.5, gt=0, description="how often each backend is probed for its status")
    reprobe_seconds: float = Field(
        default=0.25, gt=0, description="the same while the backend is skipped after failures"
    )
    probe_timeout_seconds: float = Field(default=0.5, gt=0, description="deadline of a probe")
    load_timeout_seconds: float = Field(
        default=30.0, gt=0, description="deadline for a backend to load a version that it has not loaded"
    )
    breaker_failures: int = Field(default=3, ge=1, description="consecutive failures after which a backend is skipped")
    breaker_window_seconds: float = Field(
        default=10.0, gt=0, description="failures further apart than this are not counted together"
    )
    min_counted_timeout_seconds: float = Field(
        default=0.05, ge=0, description="timeouts of calls that were given less than this do not count as failures"
    )

    @model_validator(mode="after")
    def _channels_of_shares(self) -> Self:
        for name, share in self.channel_shares.items():
            if name not in self.recall:
                raise ValueError(f"channel_shares: no channel {name!r} in recall; choose of {', '.join(self.recall)}")
            if share * self.budget_seconds < self.min_counted_timeout_seconds:
                raise ValueError(
                    f"channel_shares: {share:g} of budget_seconds is {share * self.budget_seconds * 1e3:.0f} ms, but "
                    f"timeouts below min_counted_timeout_seconds, {self.min_counted_timeout_seconds * 1e3:.0f} ms, do "
                    f"not count: {name} would never be given up; raise the share, or lower that limit"
                )
        return self
