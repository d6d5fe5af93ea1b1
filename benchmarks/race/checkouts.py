"""Names of this project by where they are in a checkout: `--against` runs another commit's code, as old as f8a1bb3."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PLACES: Mapping[str, tuple[str, ...]] = {
    "LocalCluster": ("offline.local.cluster", "recsys.cluster"),
    "Ports": ("offline.local.ports", "offline.local.cluster", "recsys.cluster"),
    "Request": ("gateway.pipeline.request", "gateway.pipeline"),
    "ServedBundle": ("gateway.bundle.served", "gateway.served"),
    "apply_filters": ("gateway.pipeline.filters", "gateway.filters"),
    "best_first": ("gateway.pipeline.merge", "gateway.merge"),
    "blended_scores": ("gateway.pipeline.merge", "gateway.merge"),
    "channel_class": ("recall_server.channels.registry", "recall_server.channels"),
    "channels_of": ("offline.local.serve", "offline.local"),
    "merge": ("gateway.pipeline.merge", "gateway.merge"),
    "programs": ("offline.local.programs", "offline.local.cluster", "recsys.cluster"),
    "wait_complete": ("offline.local.serve", "offline.local"),
}
"""Modules that may define a name, newest layout first."""


def named(name: str) -> Any:
    """The object of this name in the checkout that is on the path; raises ImportError where no layout has it."""
    for module in PLACES[name]:
        if _exists(module):
            return getattr(import_module(module), name)
    raise ImportError(f"{name}: none of {', '.join(PLACES[name])} exists in this checkout; add where it is to PLACES")


def _exists(module: str) -> bool:
    """Whether the checkout has the file. `find_spec` would also find it in an editable installation of another one."""
    top, *below = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return False
    place = Path(spec.origin).parent.joinpath(*below)
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
