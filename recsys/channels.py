"""The registry of recall channels: one line each.

Everything that has to know which channels there are reads this table or is generated from it: ports, roles and folders
of a bundle, settings and training, what `make serve` starts, images, Compose services, metrics targets and the tables
of the documentation (`make docs`). Code is named by string, so that a process imports the libraries of its own
channel only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal

from recsys.errors import InvalidRequest

Need = Literal["tables", "text", "earlier"]
"""What a trainer is given besides the snapshot, as a folder or None: the tables, the text vectors of the items (where
its settings' `reads_text` is true), and what it wrote itself at the cut-off before."""


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """One recall channel. `channel`, `trainer` and `settings` are `module:name`.

    The trainer is called as `train(snapshot, config=settings, folder=folder)` and writes the files of the channel below
    `folder`; what it `needs` comes as keyword arguments of these names.
    """

    name: str
    """Role in the bundle, value of `--channel`, stage `recall:<name>`."""
    port: int
    """Default gRPC port; the metrics port follows from it."""
    channel: str
    """The class that serves, a `recall_server.channels.base.Channel`."""
    trainer: str
    """The function that trains."""
    settings: str
    """The pydantic model of the trainer's settings."""
    section: str = ""
    """The section of the offline configuration that holds them; the name where it is not given."""
    folders: tuple[str, ...] = ()
    """Folders of a bundle that its process reads, besides the catalogue; the one of its name where none are given."""
    needs: tuple[Need, ...] = ()
    default: bool = False
    """Whether it is trained and served where the configuration names no channels."""
    similar: bool = False
    """Whether it answers SimilarItems where the configuration names no channels."""

    @property
    def settings_section(self) -> str:
        """The section of its settings, and their attribute in `OfflineConfig`."""
        return self.section or self.name

    @property
    def role_folders(self) -> tuple[str, ...]:
        """All folders of a bundle that its process reads."""
        return ("catalogue", *(self.folders or (self.name,)))

    def load_channel(self) -> Any:
        """The class that serves; raises ModuleNotFoundError where one of its libraries is not installed."""
        return _named(self.channel)

    def load_trainer(self) -> Any:
        """The function that trains."""
        return _named(self.trainer)

    def load_settings(self) -> Any:
        """The model of the trainer's settings."""
        return _named(self.settings)


_SPECS = (
    ChannelSpec(
        "popularity",
        50051,
        channel="recall_server.channels.popularity:PopularityChannel",
        trainer="offline.recall.popularity:train",
        settings="offline.recall.popularity:PopularityConfig",
        default=True,
    ),
    ChannelSpec(
        "itemcf",
        50052,
        channel="recall_server.channels.itemcf:ItemCFChannel",
        trainer="offline.recall.itemcf.training:train",
        settings="offline.recall.itemcf.training:ItemCFConfig",
        default=True,
        similar=True,
    ),
    ChannelSpec(
        "vector",
        50053,
        channel="recall_server.channels.vector:VectorChannel",
        trainer="offline.recall.two_tower.training:train_channel",
        settings="offline.recall.two_tower.config:TwoTowerConfig",
        section="two_tower",
        needs=("earlier", "text"),
        default=True,
        similar=True,
    ),
    ChannelSpec(
        "als",
        50055,
        channel="recall_server.channels.als:ALSChannel",
        trainer="offline.recall.als:train",
        settings="offline.recall.als:ALSConfig",
    ),
    ChannelSpec(
        "content",
        50056,
        channel="recall_server.channels.content:ContentChannel",
        trainer="offline.recall.content:train",
        settings="offline.recall.content:ContentConfig",
        needs=("tables",),
    ),
)

CHANNELS: Mapping[str, ChannelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""By name, in the order in which policies and tables list them."""

DEFAULT_CHANNELS = tuple(name for name, spec in CHANNELS.items() if spec.default)
"""What is trained and served where the configuration names nothing else."""

FALLBACK_CHANNEL = "popularity"
"""Trained in any case: the gateway's own list, for the case that everything else is lost, comes from it."""


def spec_of(name: str) -> ChannelSpec:
    """The channel `name`; raises InvalidRequest that lists the channels there are."""
    if name not in CHANNELS:
        raise InvalidRequest(f"no recall channel {name!r}; choose one of {', '.join(CHANNELS)}")
    return CHANNELS[name]


def _named(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
