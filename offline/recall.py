"""The recall models of one cut-off: one step per channel, and one folder that shows them as a bundle would."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from offline import cosine, ease, interactions, itemcf, neighbours, people, popularity, two_tower
from offline.interactions import Dataset, Snapshot
from offline.itemcf import ItemCFConfig
from offline.popularity import PopularityConfig
from offline.steps import RECEIPT, Step, Workspace
from offline.two_tower.config import TwoTowerConfig
from recsys import catalogue as recsys_catalogue
from recsys import people as recsys_people

CHANNELS = ("popularity", "itemcf", "vector")
"""The channels that are trained, in the order of the policy."""


@dataclass(frozen=True, slots=True)
class RecallConfig:
    """Configuration of every channel."""

    popularity: PopularityConfig
    itemcf: ItemCFConfig
    two_tower: TwoTowerConfig


@dataclass(frozen=True, slots=True)
class RecallModels:
    """The trained channels of one cut-off."""

    cutoff: int
    snapshot: Snapshot
    parts: tuple[Step, ...]
    """Catalogue, popularity, ItemCF and two-tower, each a folder that a bundle takes over as it is."""
    view: Step
    """One folder with all parts side by side, for `Channel.open`."""


def train_recall(
    workspace: Workspace,
    dataset: Dataset,
    cutoff: int,
    *,
    config: RecallConfig,
    tables: Step,
    earlier: RecallModels | None = None,
) -> RecallModels:
    """Trains every channel on what was known at `cutoff`; the towers continue from those of an earlier cut-off."""
    snapshot = dataset.snapshot(cutoff)
    facts = {"dataset": dataset.name, "cutoff": cutoff, "events": len(snapshot.item_ids)}
    initial = earlier.parts[-1] if earlier else None

    catalogue = workspace.run(
        "catalogue",
        lambda folder: _save_catalogue(snapshot, folder),
        facts=facts,
        inputs=[tables],
        code=[interactions, people, recsys_catalogue, recsys_people],
    )

    def train_towers(folder: Path) -> None:
        two_tower.train(snapshot, config.two_tower, folder, initial=initial.folder if initial else None)

    parts = (
        catalogue,
        workspace.run(
            "popularity",
            lambda folder: popularity.train(snapshot, config.popularity, folder),
            config=config.popularity,
            inputs=[catalogue],
            code=[popularity],
        ),
        workspace.run(
            "itemcf",
            lambda folder: itemcf.train(snapshot, config.itemcf, folder),
            config=config.itemcf,
            inputs=[catalogue],
            code=[itemcf, cosine, ease, neighbours],
        ),
        workspace.run(
            "two-tower",
            train_towers,
            config=config.two_tower,
            inputs=[catalogue, *([initial] if initial else [])],
            code=_modules_of(two_tower),
        ),
    )
    view = workspace.run("recall", lambda folder: link_folders([part.folder for part in parts], folder), inputs=parts)
    return RecallModels(cutoff, snapshot, parts, view)


def _save_catalogue(snapshot: Snapshot, folder: Path) -> None:
    snapshot.catalogue.save(folder)
    snapshot.texts.save(folder)


def link_folders(parts: Iterable[Path], folder: Path) -> None:
    """Shows the files of `parts` side by side below `folder`, without a copy of them."""
    for part in parts:
        shutil.copytree(part, folder, copy_function=_link, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECEIPT))


def _link(source: str, target: str) -> None:
    Path(target).unlink(missing_ok=True)
    os.link(source, target)


def _modules_of(package: ModuleType) -> list[ModuleType]:
    return [value for value in vars(package).values() if isinstance(value, ModuleType)] or [package]
