"""Trials of rankers, the choice among them and the training of the chosen one, as steps of the workflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from offline.ranking.rankers import choice as choosing
from offline.ranking.rankers import graph, kinds, ranking_dataset
from offline.ranking.rankers.choice import RankerChoice, choose_ranker
from offline.ranking.rankers.config import RankerConfigs
from offline.ranking.rankers.kinds import RankerKind, kind_of
from offline.ranking.rankers.ranking_dataset import LabelledWindow, RankerTrial, RankingDataset
from offline.steps.workspace import Step, Workspace
from rank_server.scoring import GRAPH_FILE
from recsys.domain import Ids


@dataclass(frozen=True, slots=True)
class FoldSamples:
    """The samples of one fold, and the catalogue that their item rows refer to."""

    step: Step
    item_ids: Ids
    """Ascending."""

    def open(self) -> LabelledWindow:
        """The samples, memory-mapped."""
        return LabelledWindow.open(self.step.folder, self.item_ids)


@dataclass(frozen=True, slots=True)
class RankerInputs:
    """What rankers are trained on: labelled folds, the catalogue that they will serve, and the rating model."""

    folds: Sequence[FoldSamples]
    item_ids: Ids
    rating: Step | None = None
    """None where no ranker needs it."""

    @property
    def steps(self) -> list[Step]:
        """All steps that these inputs depend on."""
        return [*(fold.step for fold in self.folds), *([self.rating] if self.rating else [])]


@dataclass(frozen=True, slots=True)
class Rankers:
    """The rankers of one configuration; their graphs read features of these names."""

    workspace: Workspace
    configs: RankerConfigs
    feature_names: tuple[str, ...]

    def choose(self, inputs: RankerInputs, validation: FoldSamples) -> Step:
        """The choice on `validation` among the rankers trained on `inputs`: `choice.json`; one step for each trial."""
        trials: dict[str, Step] = {name: self.attempt(name, inputs, validation) for name in self.configs.ranker.tried}

        def choose(folder: Path) -> None:
            found = {name: RankerTrial.load(step.folder) for name, step in trials.items()}
            tried = {name: trial for name, trial in found.items() if trial is not None}
            choose_ranker(tried, validation.open().samples, self.configs.ranker).save(folder)

        return self.workspace.run(
            "choice",
            choose,
            config=self.configs.ranker,
            inputs=[*trials.values(), validation.step],
            code=[choosing, ranking_dataset],
        )

    def attempt(self, name: str, inputs: RankerInputs, validation: FoldSamples) -> Step:
        """The trial of one kind: what `RankerTrial.load` reads, or nothing where there was nothing to learn from."""
        kind = kind_of(name, self.configs)

        def attempt(folder: Path) -> None:
            dataset = self._dataset(inputs)
            if dataset.has_signal:
                kind.attempt(dataset, validation.open(), folder).save(folder)

        return self.workspace.run(
            f"trial-{name}",
            attempt,
            config=kind.config,
            facts=self._facts(),
            inputs=[*inputs.steps, validation.step],
            code=_code(kind),
        )

    def train(self, inputs: RankerInputs, choice: Step) -> Step:
        """The ranker that `choice` says, trained on all of `inputs`: `rank/ranker.onnx`."""
        chosen = RankerChoice.load(choice.folder)
        parts = [self._train(name, inputs, chosen) for name in chosen.weights]
        if len(parts) == 1:
            return parts[0]

        def add(folder: Path) -> None:
            paths = [step.folder / GRAPH_FILE for step in parts]
            graph.add_graphs(paths, list(chosen.weights.values()), folder / GRAPH_FILE)

        return self.workspace.run("ranker", add, facts=chosen.weights, inputs=parts, code=[graph])

    def _train(self, name: str, inputs: RankerInputs, chosen: RankerChoice) -> Step:
        kind, settings = kind_of(name, self.configs), chosen.settings.get(name, {})

        def train(folder: Path) -> None:
            (folder / GRAPH_FILE).parent.mkdir(parents=True, exist_ok=True)
            kind.train(self._dataset(inputs), folder / GRAPH_FILE, settings)

        return self.workspace.run(
            f"ranker-{name}",
            train,
            config=kind.config,
            facts=[*self._facts(), settings],
            inputs=inputs.steps,
            code=_code(kind),
        )

    def _dataset(self, inputs: RankerInputs) -> RankingDataset:
        ranker = self.configs.ranker
        return RankingDataset(
            tuple(fold.open() for fold in inputs.folds),
            inputs.item_ids,
            self.feature_names,
            inputs.rating.folder if inputs.rating else None,
            ranker.cold_share,
            ranker.seed,
        )

    def _facts(self) -> list[object]:
        return [list(self.feature_names), self.configs.ranker.cold_share, self.configs.ranker.seed]


def _code(kind: RankerKind) -> list[ModuleType]:
    return [kinds, ranking_dataset, graph, *kind.modules]
