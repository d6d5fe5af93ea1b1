"""The recall channels, gRPC-free. `CHANNELS` is the registry: a new channel is one class and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from recsys.errors import InvalidRequest

if TYPE_CHECKING:
    from recall_server.channels.base import Channel

CHANNELS: Mapping[str, str] = MappingProxyType(
    {
        "popularity": "recall_server.channels.popularity:PopularityChannel",
        "itemcf": "recall_server.channels.itemcf:ItemCFChannel",
        "vector": "recall_server.channels.vector:VectorChannel",
        "als": "recall_server.channels.als:ALSChannel",
        "content": "recall_server.channels.content:ContentChannel",
    }
)
"""Where each channel's class is, as `module:class`: a process imports the libraries of its own channel only."""


def channel_class(name: str) -> type[Channel]:
    """The class of the channel `name`; raises InvalidRequest that lists the channels there are."""
    if name not in CHANNELS:
        raise InvalidRequest(f"no recall channel {name!r}; choose one of {', '.join(CHANNELS)}")
    module, _, class_name = CHANNELS[name].partition(":")
    channel: type[Channel] = getattr(import_module(module), class_name)
    return channel
