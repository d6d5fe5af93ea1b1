"""One typed configuration for all offline verbs: a TOML file, flags and environment; unknown keys are refused."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import SettingsConfigDict

from offline.dataset.splits import SplitConfig
from offline.evaluation.evaluate import BootstrapConfig
from offline.evaluation.replay import PacingConfig
from offline.evaluation.reranking.lists import RerankConfig
from offline.ingest.datasets.registry import DEMO, PUBLISHED
from offline.ingest.inputs import IngestInputs
from offline.ranking.blend import BlendConfig
from offline.ranking.rankers.config import RankerConfig, RankerConfigs
from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.svd import RatingConfig
from offline.ranking.rankers.trees import LightGBMConfig
from offline.ranking.samples import SamplesConfig
from offline.recall.als import ALSConfig
from offline.recall.content import ContentConfig
from offline.recall.itemcf.training import ItemCFConfig
from offline.recall.popularity import PopularityConfig
from offline.recall.text.config import TextConfig
from offline.recall.training import CHANNELS, DEFAULT_CHANNELS, RecallConfig
from offline.recall.two_tower.config import TwoTowerConfig
from offline.workflow.renamed import RENAMED_SETTINGS
from recall_server.channels import channel_class
from recsys.bundle import BundleStore, ChannelPolicy, ServingPolicy
from recsys.config import TypedConfig

Purpose = Literal["evaluation", "production"]

PRESETS = Path(__file__).parent / "presets"
"""Settings of some data sets, `<dataset>.toml`, read before the defaults."""


class ServingConfig(BaseModel):
    """What the pipeline asks of the channels; validation chooses the rest of the policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[str, ...] = Field(
        default=DEFAULT_CHANNELS,
        min_length=1,
        description=f"recall channels that are trained and asked, any of {', '.join(CHANNELS)}; make serve starts a "
        "process for each",
    )
    channel_count: int = Field(default=200, ge=1, le=2_000, description="candidates asked of each channel")
    clock: Literal["auto", "wall", "cutoff"] = Field(
        default="auto",
        description="the moment of a request without as_of: now, or the end of the data; auto: the end for published "
        "and demo data, now for your own",
    )

    @field_validator("channels")
    @classmethod
    def _known_channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        """Each once, in the order of `CHANNELS`, so that the order of a list changes nothing."""
        unknown = [name for name in channels if name not in CHANNELS]
        if unknown:
            raise ValueError(f"no recall channel {unknown[0]!r}; choose of {', '.join(CHANNELS)}")
        return tuple(name for name in CHANNELS if name in channels)

    def policy(self, dataset: str) -> ServingPolicy:
        """The policy to start from: every channel alike, the blended order."""
        historical = dataset == DEMO or dataset in PUBLISHED
        clock = ("cutoff" if historical else "wall") if self.clock == "auto" else self.clock
        channels = tuple(
            ChannelPolicy(
                name=name, count=self.channel_count, weight=1.0, history_limit=channel_class(name).history_limit
            )
            for name in self.channels
        )
        return ServingPolicy(channels=channels, rank_count=200, ranking="blended", serving_clock=clock)


class OfflineConfig(TypedConfig):
    """What every verb is told."""

    model_config = SettingsConfigDict(env_prefix="RECSYSOFFLINE_")
    renamed: ClassVar[Mapping[str, str]] = RENAMED_SETTINGS

    dataset: str = Field(
        default="demo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="demo, ml-latest-small, ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m, interactions (your own), "
        "or any name of yours with --data-dir",
    )
    data_dir: Path | None = Field(default=None, description="folder or zip with the raw files; absent: downloaded")
    metadata_file: Path | None = Field(
        default=None,
        description="people, overviews, runtimes, budgets and dates of items: movies_extrainfos.dat, or an export of "
        "TMDb (csv, Parquet); absent: what the data set says itself",
    )
    items_file: Path | None = Field(
        default=None,
        description="items beside those of the data set, csv or Parquet as own items are; give it to every verb that "
        "reads raw files, until the data set has them itself",
    )
    root: Path = Field(default=Path("data"), description="data root: tables, work, bundles and events, per data set")
    max_bad_lines: int = Field(default=0, ge=0, description="unparseable lines to skip before ingest gives up")
    keep_bundles: int = Field(default=5, ge=2, description="bundles kept on disk per purpose")
    seed: int = Field(default=1, ge=0, description="of evaluation's bootstrap and of sampled users")
    split: SplitConfig = SplitConfig()
    popularity: PopularityConfig = PopularityConfig()
    itemcf: ItemCFConfig = ItemCFConfig()
    two_tower: TwoTowerConfig = TwoTowerConfig()
    als: ALSConfig = ALSConfig()
    content: ContentConfig = ContentConfig()
    text: TextConfig = TextConfig()
    serving: ServingConfig = ServingConfig()
    blend: BlendConfig = BlendConfig()
    samples: SamplesConfig = SamplesConfig()
    ranker: RankerConfig = RankerConfig()
    lightgbm: LightGBMConfig = LightGBMConfig()
    network: NetworkConfig = NetworkConfig()
    rating: RatingConfig = RatingConfig()
    rerank: RerankConfig = RerankConfig()
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
            self.dataset, self.root, self.data_dir, self.metadata_file, self.items_file, self.max_bad_lines
        )

    @property
    def home(self) -> Path:
        """The folder of the data set below the data root."""
        return self.ingest_inputs.home

    @property
    def label(self) -> str:
        """The data set's name in results: that of its folder, where one is given."""
        return self.data_dir.name if self.data_dir is not None else self.dataset

    @property
    def tables(self) -> Path:
        """Where ingest writes."""
        return self.ingest_inputs.tables

    @property
    def events_file(self) -> Path:
        """Where the gateway of `serve` records events."""
        return self.ingest_inputs.events_file

    @property
    def recall(self) -> RecallConfig:
        """Configuration of every channel."""
        channels = self.serving.channels
        return RecallConfig(self.popularity, self.itemcf, self.two_tower, self.als, self.content, channels, self.text)

    @property
    def rankers(self) -> RankerConfigs:
        """Configuration of every ranker."""
        return RankerConfigs(self.ranker, self.lightgbm, self.network, self.rating)

    def store(self, purpose: Purpose) -> BundleStore:
        """The bundles of one purpose."""
        return BundleStore(self.home / "bundles" / purpose)
