"""One typed configuration for all offline verbs: a TOML file, flags and environment; unknown keys are refused."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator
from pydantic_settings import SettingsConfigDict

from offline.dataset.splits import SplitConfig
from offline.evaluation.evaluate import BootstrapConfig, EvaluationConfig
from offline.evaluation.replay import PacingConfig
from offline.evaluation.reranking.lists import RerankConfig
from offline.ingest.datasets.registry import DEMO, GENERATED, PUBLISHED
from offline.ingest.inputs import IngestInputs
from offline.ingest.synthetic.shape import FEWEST_ROWS
from offline.ranking.blend import BlendConfig
from offline.ranking.rankers.config import RankerConfig, RankerConfigs
from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.svd import RatingConfig
from offline.ranking.rankers.trees import LightGBMConfig
from offline.ranking.samples import SamplesConfig
from offline.recall.text.config import TextConfig
from offline.workflow.renamed import RENAMED_SETTINGS
from recall_server.channels.registry import channel_class
from recsys.bundle import BundleStore, ChannelPolicy, ServingPolicy
from recsys.channels import CHANNELS, DEFAULT_CHANNELS
from recsys.config import TypedConfig

Purpose = Literal["evaluation", "production"]

PRESETS = Path(__file__).parent / "presets"
"""Settings of some data sets, `<dataset>.toml`, read before the defaults."""


class ServingConfig(BaseModel):
    """Channels, candidates per channel and clock of the served policy; validation chooses the rest of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[str, ...] = Field(
        default=DEFAULT_CHANNELS,
        min_length=1,
        description=f"recall channels to train and to query, any of {', '.join(CHANNELS)}; `serve` starts a process "
        "for each",
    )
    channel_count: int = Field(default=200, ge=1, le=2_000, description="candidates requested from each channel")
    clock: Literal["auto", "wall", "cutoff"] = Field(
        default="auto",
        description="time of a request without as_of: wall is now, cutoff the end of the data; auto is cutoff for "
        "published data sets and demo, wall for your own",
    )

    @field_validator("channels")
    @classmethod
    def _known_channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        """Each once, in the order of `CHANNELS`, so that the order of a list changes nothing."""
        unknown = [name for name in channels if name not in CHANNELS]
        if unknown:
            raise ValueError(f"no recall channel {unknown[0]!r}; choose from {', '.join(CHANNELS)}")
        return tuple(name for name in CHANNELS if name in channels)

    def policy(self, dataset: str) -> ServingPolicy:
        """The policy to start from: every channel alike, the blended order."""
        historical = dataset in (*GENERATED, *PUBLISHED)
        clock = ("cutoff" if historical else "wall") if self.clock == "auto" else self.clock
        channels = tuple(
            ChannelPolicy(
                name=name, count=self.channel_count, weight=1.0, history_limit=channel_class(name).history_limit
            )
            for name in self.channels
        )
        return ServingPolicy(channels=channels, rank_count=200, ranking="blended", serving_clock=clock)


class ReadsText(Protocol):
    """Settings of a channel that needs text vectors."""

    @property
    def reads_text(self) -> bool:
        """Whether the channel reads them as it is configured."""


@dataclass(frozen=True, slots=True)
class RecallConfig:
    """Which channels are trained, and the settings of each by its name."""

    channels: tuple[str, ...]
    settings: Mapping[str, BaseModel]
    text: TextConfig = field(default_factory=TextConfig)

    @property
    def reads_text(self) -> bool:
        """Whether a channel that is trained reads what items' texts say: its settings have `reads_text`."""
        wanted = (name for name in self.channels if "text" in CHANNELS[name].needs)
        return self.text.source != "none" and any(cast("ReadsText", self.settings[name]).reads_text for name in wanted)


class CommonConfig(TypedConfig):
    """The settings of every verb, without those of the recall channels."""

    model_config = SettingsConfigDict(env_prefix="RECSYSOFFLINE_")
    renamed: ClassVar[Mapping[str, str]] = RENAMED_SETTINGS

    dataset: str = Field(
        default="demo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="demo (generated, with quick settings of its own), synthetic (generated, of any size), "
        "ml-latest-small, ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m, interactions (your own data), or any other "
        "name together with --data-dir",
    )
    data_dir: Path | None = Field(
        default=None, description="folder or zip with the raw files; without it, they are downloaded"
    )
    metadata_file: Path | None = Field(
        default=None,
        description="people, overviews, runtimes, budgets and release dates of items: movies_extrainfos.dat, or a "
        "TMDb export (CSV or Parquet); without it, only what the data set has",
    )
    items_file: Path | None = Field(
        default=None,
        description="items to add to those of the data set, as CSV or Parquet in the format of own items; pass it to "
        "every verb that reads raw files, until the data set includes them",
    )
    rows: int = Field(
        default=1_000_000, ge=FEWEST_ROWS, description="ratings of the data set synthetic; a folder for each number"
    )
    root: Path = Field(
        default=Path("data"),
        description="folder for everything that is written: tables, work, bundles and events, one folder per data set",
    )
    max_bad_lines: int = Field(default=0, ge=0, description="malformed lines that ingest skips before it gives up")
    keep_bundles: int = Field(default=5, ge=2, description="bundles to keep on disk, per purpose")
    seed: int = Field(default=1, ge=0, description="seed of user sampling")
    split: SplitConfig = SplitConfig()
    text: TextConfig = TextConfig()
    serving: ServingConfig = ServingConfig()
    blend: BlendConfig = BlendConfig()
    samples: SamplesConfig = SamplesConfig()
    ranker: RankerConfig = RankerConfig()
    lightgbm: LightGBMConfig = LightGBMConfig()
    network: NetworkConfig = NetworkConfig()
    rating: RatingConfig = RatingConfig()
    rerank: RerankConfig = RerankConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    bootstrap: BootstrapConfig = BootstrapConfig()
    pacing: PacingConfig = PacingConfig()

    @classmethod
    def _preset(cls, arguments: Sequence[str], file: dict[str, Any]) -> dict[str, Any]:
        """The settings of some data sets: `demo` is for a first look, ready in two minutes."""
        chosen = f"{cls._early('dataset', arguments, file.get('dataset', DEMO))}.toml"
        found = {path.name: path for path in PRESETS.glob("*.toml")}
        return tomllib.loads(found[chosen].read_text("utf-8")) if chosen in found else {}

    @property
    def ingest_inputs(self) -> IngestInputs:
        """What ingest reads, and where it writes."""
        return IngestInputs(
            self.dataset, self.root, self.data_dir, self.metadata_file, self.items_file, self.max_bad_lines, self.rows
        )

    @property
    def home(self) -> Path:
        """The folder of the data set below the data root."""
        return self.ingest_inputs.home

    @property
    def label(self) -> str:
        """The data set's name in results: that of its folder, where one is given."""
        return self.data_dir.name if self.data_dir is not None else self.home.name

    @property
    def tables(self) -> Path:
        """Where ingest writes."""
        return self.ingest_inputs.tables

    @property
    def events_file(self) -> Path:
        """Where the gateway of `serve` records events."""
        return self.ingest_inputs.events_file

    @property
    def rankers(self) -> RankerConfigs:
        """Configuration of every ranker."""
        return RankerConfigs(self.ranker, self.lightgbm, self.network, self.rating)

    def store(self, purpose: Purpose) -> BundleStore:
        """The bundles of one purpose."""
        return BundleStore(self.home / "bundles" / purpose)


if TYPE_CHECKING:
    WithChannels = CommonConfig
else:
    WithChannels = create_model(
        "WithChannels",
        __base__=CommonConfig,
        **{spec.settings_section: (spec.load_settings(), spec.load_settings()()) for spec in CHANNELS.values()},
    )


SettingsT = TypeVar("SettingsT", bound=BaseModel)


class OfflineConfig(WithChannels):
    """The settings of every verb; each channel of the registry has a section of its own."""

    def settings_of(self, channel: str, kind: type[SettingsT]) -> SettingsT:
        """The settings of one channel, which are of the type `kind`."""
        found = getattr(self, CHANNELS[channel].settings_section)
        if not isinstance(found, kind):
            raise TypeError(f"settings of {channel}: {type(found).__name__}, expected {kind.__name__}")
        return found

    @property
    def recall(self) -> RecallConfig:
        """Configuration of every channel."""
        settings = {name: getattr(self, spec.settings_section) for name, spec in CHANNELS.items()}
        return RecallConfig(self.serving.channels, settings, self.text)
