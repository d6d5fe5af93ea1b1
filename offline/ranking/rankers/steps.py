"""Trials of rankers, the choice among them and the training of the chosen one, as steps of the workflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from offline.ranking.rankers.choice import RankerChoice, write_choice
from offline.ranking.rankers.config import RankerConfigs
from offline.ranking.rankers.graph import write_sum
from offline.ranking.rankers.kinds import kind_of
from offline.ranking.rankers.ranking_dataset import DatasetFiles, LabelledWindow, WindowFiles
from offline.steps.workspace import Step, Workspace
from recsys.domain import Ids


@dataclass(frozen=True, slots=True)
class FoldSamples:
    """The samples of one fold, and the catalogue that their item rows refer to."""

    step: Step
    item_ids: Ids
    """Ascending."""

    @property
    def files(self) -> WindowFiles:
        """Where they are."""
        return WindowFiles(self.step.folder, self.item_ids)

    def open(self) -> LabelledWindow:
        """The samples, memory-mapped."""
        return self.files.open()


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
        config = self.configs.ranker
        trials: dict[str, Step] = {name: self.attempt(name, inputs, validation) for name in config.tried}
        folders = {name: step.folder for name, step in trials.items()}
        return self.workspace.run(
            "choice",
            partial(write_choice, folders, validation.files, config=config),
            config=config,
            inputs=[*trials.values(), validation.step],
        )

    def attempt(self, name: str, inputs: RankerInputs, validation: FoldSamples) -> Step:
        """The trial of one kind: what `RankerTrial.load` reads, or nothing where there was nothing to learn from."""
        kind = kind_of(name, self.configs)
        return self.workspace.run(
            f"trial-{name}",
            partial(kind.write_trial, self._files(inputs), validation.files),
            config=kind.config,
            facts=self._facts(),
            inputs=[*inputs.steps, validation.step],
        )

    def train(self, inputs: RankerInputs, choice: Step) -> Step:
        """The ranker that `choice` selects, trained on all of `inputs`: `rank/ranker.onnx`."""
        chosen = RankerChoice.load(choice.folder)
        parts = [self._train(name, inputs, chosen) for name in chosen.weights]
        if len(parts) == 1:
            return parts[0]
        folders, weights = [step.folder for step in parts], list(chosen.weights.values())
        return self.workspace.run("ranker", partial(write_sum, folders, weights), facts=chosen.weights, inputs=parts)

    def _train(self, name: str, inputs: RankerInputs, chosen: RankerChoice) -> Step:
        kind, settings = kind_of(name, self.configs), chosen.settings.get(name, {})
        return self.workspace.run(
            f"ranker-{name}",
            partial(kind.write_graph, self._files(inputs), settings),
            config=kind.config,
            facts=[*self._facts(), settings],
            inputs=inputs.steps,
        )

    def _files(self, inputs: RankerInputs) -> DatasetFiles:
        return DatasetFiles(
            tuple(fold.files for fold in inputs.folds),
            inputs.item_ids,
            self.feature_names,
            inputs.rating.folder if inputs.rating else None,
            self.configs.ranker.cold_share,
            self.configs.ranker.seed,
        )

    def _facts(self) -> list[object]:
        return [list(self.feature_names), self.configs.ranker.cold_share, self.configs.ranker.seed]
