"""The contract of a ranker: try on validation, then train on everything. Each kind is in the module that trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, final

from pydantic import BaseModel

from offline.ranking.rankers.ranking_dataset import (
    DatasetFiles,
    LabelledWindow,
    RankerTrial,
    RankingDataset,
    WindowFiles,
)
from rank_server.scoring import GRAPH_FILE

TrialSettings = dict[str, int | float]


class RankerKind(ABC):
    """One way to order candidates."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def config(self) -> BaseModel:
        """Its own configuration."""

    @abstractmethod
    def attempt(self, dataset: RankingDataset, held_out: LabelledWindow, folder: Path) -> RankerTrial:
        """Learns from `dataset`, which must not reach into the labels of `held_out`, and scores that; `folder` may keep
        what a killed run continues from. Raises DataError where there is nothing to learn from."""

    @abstractmethod
    def train(self, dataset: RankingDataset, path: Path, settings: TrialSettings) -> None:
        """Learns from all of `dataset` with the settings that a trial chose, and writes the graph to `path`.

        Raises DataError where there is nothing to learn from, ContractBroken where the graph scores otherwise."""

    @final
    def write_trial(self, files: DatasetFiles, validation: WindowFiles, folder: Path) -> None:
        """Writes what `RankerTrial.load` reads, or nothing where there was nothing to learn from."""
        dataset = files.open()
        if dataset.has_signal:
            self.attempt(dataset, validation.open(), folder).save(folder)

    @final
    def write_graph(self, files: DatasetFiles, settings: TrialSettings, folder: Path) -> None:
        """Trains on everything and writes `GRAPH_FILE` below `folder`."""
        (folder / GRAPH_FILE).parent.mkdir(parents=True, exist_ok=True)
        self.train(files.open(), folder / GRAPH_FILE, settings)
