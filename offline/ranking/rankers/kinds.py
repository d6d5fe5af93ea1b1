"""The rankers that there are, behind one contract: try on validation, then train on everything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

from pydantic import BaseModel

from offline.ranking.rankers import svd, svd_export, trees, trees_export
from offline.ranking.rankers.config import RankerConfigs
from offline.ranking.rankers.network import config as network_config
from offline.ranking.rankers.network import export, inputs, model, ranker, training
from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankerTrial, RankingDataset
from offline.ranking.rankers.svd import RatingConfig
from offline.ranking.rankers.trees import LightGBMConfig
from recsys.errors import DataError
from recsys.features import rating
from recsys.features.rating import RatingModel

Settings = dict[str, int | float]


class RankerKind(ABC):
    """One way to order candidates."""

    name: ClassVar[str]
    modules: ClassVar[tuple[ModuleType, ...]]
    """What decides its outcome."""

    @property
    @abstractmethod
    def config(self) -> BaseModel:
        """Its own configuration."""

    @abstractmethod
    def attempt(self, dataset: RankingDataset, held_out: LabelledWindow, folder: Path) -> RankerTrial:
        """Learns from `dataset`, which must not reach into the labels of `held_out`, and scores that; `folder` may keep
        what a killed run continues from. Raises DataError where there is nothing to learn from."""

    @abstractmethod
    def train(self, dataset: RankingDataset, path: Path, settings: Settings) -> None:
        """Learns from all of `dataset` with the settings that a trial chose, and writes the graph to `path`.

        Raises DataError where there is nothing to learn from, ContractBroken where the graph scores otherwise."""


@dataclass(frozen=True, slots=True)
class TreeRanker(RankerKind):
    """LightGBM LambdaRank."""

    name: ClassVar[str] = "lightgbm"
    modules: ClassVar[tuple[ModuleType, ...]] = (trees, trees_export)
    config: LightGBMConfig

    def attempt(self, dataset: RankingDataset, held_out: LabelledWindow, folder: Path) -> RankerTrial:  # noqa: ARG002 - it is not continued
        """Chooses the number of rounds."""
        return trees.choose_rounds(dataset, held_out.samples, self.config)

    def train(self, dataset: RankingDataset, path: Path, settings: Settings) -> None:
        """Trains as many rounds."""
        trees.train(dataset, path, self.config, rounds=int(settings.get("rounds", 1)))


@dataclass(frozen=True, slots=True)
class NetworkRanker(RankerKind):
    """DIN + DCN-V2 + MMoE."""

    name: ClassVar[str] = "network"
    modules: ClassVar[tuple[ModuleType, ...]] = (network_config, export, inputs, model, ranker, training)
    config: NetworkConfig

    def attempt(self, dataset: RankingDataset, held_out: LabelledWindow, folder: Path) -> RankerTrial:
        """Chooses the number of epochs and the weights of the tasks."""
        return ranker.choose_epochs(dataset, held_out, self.config, folder=folder)

    def train(self, dataset: RankingDataset, path: Path, settings: Settings) -> None:
        """Trains as many epochs."""
        ranker.train(dataset, path, self.config, settings=settings)


@dataclass(frozen=True, slots=True)
class RatingRanker(RankerKind):
    """The rating model, which is trained elsewhere, as a baseline."""

    name: ClassVar[str] = "svd"
    modules: ClassVar[tuple[ModuleType, ...]] = (svd, svd_export, rating)
    config: RatingConfig

    def attempt(self, dataset: RankingDataset, held_out: LabelledWindow, folder: Path) -> RankerTrial:  # noqa: ARG002 - it is not continued
        """Nothing is chosen."""
        return RankerTrial({}, svd_export.scores_of(_rating_of(dataset), held_out.samples), {})

    def train(self, dataset: RankingDataset, path: Path, settings: Settings) -> None:  # noqa: ARG002 - there are none
        """Nothing is trained."""
        svd_export.export_rating(_rating_of(dataset), path)


def kind_of(name: str, configs: RankerConfigs) -> RankerKind:
    """The ranker of one name of `RankerConfig.candidates`."""
    kinds: dict[str, RankerKind] = {
        TreeRanker.name: TreeRanker(configs.lightgbm),
        NetworkRanker.name: NetworkRanker(configs.network),
        RatingRanker.name: RatingRanker(configs.rating),
    }
    return kinds[name]


def _rating_of(dataset: RankingDataset) -> RatingModel:
    if dataset.rating is None:
        raise DataError("the ranker svd needs a rating model next to the samples; train one at the same cut-off")
    return RatingModel.open(dataset.rating)
