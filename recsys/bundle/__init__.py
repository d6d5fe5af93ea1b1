"""The one artifact that all processes serve from: an immutable directory with a manifest and checksums."""

from recsys.bundle.manifest import (
    FORMAT_VERSION,
    ChannelPolicy,
    FileEntry,
    IndexFacts,
    Manifest,
    RerankPolicy,
    ServingPolicy,
)
from recsys.bundle.store import Bundle, BundleStore, Release

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "BundleStore",
    "ChannelPolicy",
    "FileEntry",
    "IndexFacts",
    "Manifest",
    "Release",
    "RerankPolicy",
    "ServingPolicy",
]
