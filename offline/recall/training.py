"""The recall models of one cut-off: one step per channel, and one folder that shows them as a bundle would."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from pydantic import BaseModel

from offline.dataset import credits as people
from offline.dataset import interactions
from offline.dataset.interactions import Dataset, Snapshot
from offline.recall import als, content, descriptions, interaction_matrix, popularity, two_tower
from offline.recall.als import ALSConfig
from offline.recall.content import ContentConfig
from offline.recall.itemcf import cosine, ease, neighbours
from offline.recall.itemcf import training as itemcf
from offline.recall.itemcf.training import ItemCFConfig
from offline.recall.popularity import PopularityConfig
from offline.recall.text import documents, local, vectors
from offline.recall.text.config import TextConfig
from offline.recall.two_tower.config import TwoTowerConfig
from offline.steps.workspace import RECEIPT, Step, Workspace
from recall_server.channels import evidence
from recsys import catalogue as recsys_catalogue
from recsys import people as recsys_people

CHANNELS = ("popularity", "itemcf", "vector", "als", "content")
"""The channels that can be trained, in the order of the policy."""

DEFAULT_CHANNELS = ("popularity", "itemcf", "vector")
"""Those that a bundle has where the configuration names no others."""

FALLBACK = "popularity"
"""Trained in any case: the gateway's own list comes from it."""


@dataclass(frozen=True, slots=True)
class RecallConfig:
    """Configuration of every channel, and which of them are trained."""

    popularity: PopularityConfig
    itemcf: ItemCFConfig
    two_tower: TwoTowerConfig
    als: ALSConfig
    content: ContentConfig
    channels: tuple[str, ...] = DEFAULT_CHANNELS
    text: TextConfig = field(default_factory=TextConfig)

    @property
    def reads_text(self) -> bool:
        """Whether the towers are told what items' texts say."""
        return "vector" in self.channels and self.two_tower.reads_text and self.text.source != "none"


@dataclass(frozen=True, slots=True)
class RecallModels:
    """The trained channels of one cut-off."""

    cutoff: int
    snapshot: Snapshot
    parts: tuple[Step, ...]
    """The catalogue, then one step per channel, each a folder that a bundle takes over as it is."""
    view: Step
    """One folder with all parts side by side, for `Channel.open`."""
    text: Step | None = None
    """Text vectors of the items, where the towers read them; no part of a bundle."""

    @property
    def towers(self) -> Step | None:
        """The two-tower model that the next cut-off continues from; None where it is not trained."""
        return next((part for part in self.parts if part.name == TWO_TOWER), None)


TWO_TOWER = "two-tower"
"""Step of the vector channel."""


@dataclass(frozen=True, slots=True)
class _Trainer:
    """How one channel's step is run."""

    step: str
    train: Callable[[Path], object]
    config: BaseModel
    code: Sequence[ModuleType]
    inputs: tuple[Step, ...] = ()
    """Beside the catalogue."""


def train_recall(
    workspace: Workspace,
    dataset: Dataset,
    cutoff: int,
    *,
    config: RecallConfig,
    tables: Step,
    earlier: RecallModels | None = None,
) -> RecallModels:
    """Trains the configured channels on what was known at `cutoff`; the towers continue from an earlier cut-off's."""
    snapshot = dataset.snapshot(cutoff)
    catalogue = workspace.run(
        "catalogue",
        lambda folder: _save_catalogue(snapshot, folder),
        facts={"dataset": dataset.name, "cutoff": cutoff, "events": len(snapshot.item_ids)},
        inputs=[tables],
        code=[interactions, people, recsys_catalogue, recsys_people],
    )
    text = _text_step(workspace, snapshot, config, inputs=(tables, catalogue), earlier=earlier)
    trainers = _trainers(snapshot, config, tables=tables.folder, initial=earlier.towers if earlier else None, text=text)
    trained = [
        workspace.run(
            trainer.step,
            trainer.train,
            config=trainer.config,
            inputs=[catalogue, *trainer.inputs],
            code=trainer.code,
        )
        for channel, trainer in trainers.items()
        if channel in config.channels or channel == FALLBACK
    ]
    parts = (catalogue, *trained)
    view = workspace.run("recall", lambda folder: link_folders([part.folder for part in parts], folder), inputs=parts)
    return RecallModels(cutoff, snapshot, parts, view, text)


def _text_step(
    workspace: Workspace,
    snapshot: Snapshot,
    config: RecallConfig,
    *,
    inputs: tuple[Step, Step],
    earlier: RecallModels | None,
) -> Step | None:
    """Text vectors for the towers, in the space of those of an earlier cut-off; `inputs`: tables, catalogue."""
    if not config.reads_text:
        return None
    before = earlier.text if earlier else None
    return workspace.run(
        "text",
        lambda folder: vectors.text_vectors(
            inputs[0].folder,
            snapshot.catalogue,
            folder,
            config.text,
            cache=workspace.root.with_name("text-vectors.sqlite"),
            earlier=before.folder if before else None,
        ),
        config=config.text,
        inputs=[*inputs, *([before] if before else [])],
        code=[vectors, documents, local],
    )


def _trainers(
    snapshot: Snapshot, config: RecallConfig, *, tables: Path, initial: Step | None, text: Step | None
) -> dict[str, _Trainer]:
    """By channel. The catalogue among a step's inputs stands for the tables, from which it is made."""

    def train_towers(folder: Path) -> None:
        side = two_tower.ItemSideData.of(snapshot.catalogue, text.folder if text else None)
        two_tower.train(snapshot, config.two_tower, folder, initial=initial.folder if initial else None, side=side)

    matrix = (interaction_matrix, evidence)
    return {
        "popularity": _Trainer(
            "popularity",
            lambda folder: popularity.train(snapshot, config.popularity, folder),
            config.popularity,
            [popularity],
        ),
        "itemcf": _Trainer(
            "itemcf",
            lambda folder: itemcf.train(snapshot, config.itemcf, folder),
            config.itemcf,
            [itemcf, cosine, ease, neighbours, *matrix],
        ),
        "vector": _Trainer(
            TWO_TOWER,
            train_towers,
            config.two_tower,
            _modules_of(two_tower),
            tuple(step for step in (initial, text) if step),
        ),
        "als": _Trainer("als", lambda folder: als.train(snapshot, config.als, folder), config.als, [als, *matrix]),
        "content": _Trainer(
            "content",
            lambda folder: content.train(snapshot, config.content, folder, tables=tables),
            config.content,
            [content, descriptions, interaction_matrix],
        ),
    }


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
