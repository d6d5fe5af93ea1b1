"""From the name of a channel to its class, and from a policy to opened channels."""

from __future__ import annotations

from pathlib import Path

from recall_server.channels.base import Channel
from recsys.bundle import ServingPolicy
from recsys.channels import spec_of


def channel_class(name: str) -> type[Channel]:
    """The class of the channel `name`; raises InvalidRequest that lists the channels there are."""
    channel: type[Channel] = spec_of(name).load_channel()
    return channel


def open_channels(policy: ServingPolicy, folder: Path) -> list[Channel]:
    """The channels of a policy, in its order; `folder` holds their files as a bundle does."""
    return [channel_class(channel.name).open(folder) for channel in policy.channels]
