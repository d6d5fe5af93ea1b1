"""Trials of rankers, the choice among them and the training of the chosen one, as steps of the workflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from offline.ranking.rankers import choice as choosing
from offline.ranking.rankers import graph, kinds, lesson
from offline.ranking.rankers.choice import Choice, choose_ranker
from offline.ranking.rankers.config import RankerConfigs
from offline.ranking.rankers.kinds import RankerKind, kind_of
from offline.ranking.rankers.lesson import Lesson, Trial, Window
from offline.steps.workspace import Step, Workspace
from rank_server.scoring import GRAPH_FILE
from recsys.domain import Ids


@dataclass(frozen=True, slots=True)
class Source:
    """The samples of one fold, and the catalogue that their item rows stand for."""

    step: Step
    item_ids: Ids
    """Ascending."""

    def open(self) -> Window:
        """The samples, memory-mapped."""
        return Window.open(self.step.folder, self.item_ids)


@dataclass(frozen=True, slots=True)
class Moment:
    """What rankers may know: labelled folds, the catalogue that they will serve, and the rating model."""

    sources: Sequence[Source]
    item_ids: Ids
    rating: Step | None = None
    """None where no ranker needs it."""

    @property
    def steps(self) -> list[Step]:
        """All steps that the moment depends on."""
        return [*(source.step for source in self.sources), *([self.rating] if self.rating else [])]


@dataclass(frozen=True, slots=True)
class Rankers:
    """The rankers of one configuration; their graphs read features of these names."""

    workspace: Workspace
    configs: RankerConfigs
    feature_names: tuple[str, ...]

    def choose(self, moment: Moment, judging: Source) -> Step:
        """The choice on `judging` among all that learned from `moment`: `choice.json`; one step for each trial."""
        trials: dict[str, Step] = {name: self.attempt(name, moment, judging) for name in self.configs.ranker.tried}

        def choose(folder: Path) -> None:
            found = {name: Trial.load(step.folder) for name, step in trials.items()}
            tried = {name: trial for name, trial in found.items() if trial is not None}
            choose_ranker(tried, judging.open().samples, self.configs.ranker).save(folder)

        return self.workspace.run(
            "choice",
            choose,
            config=self.configs.ranker,
            inputs=[*trials.values(), judging.step],
            code=[choosing, lesson],
        )

    def attempt(self, name: str, moment: Moment, judging: Source) -> Step:
        """The trial of one kind: what `Trial.load` reads, or nothing where there was nothing to learn from."""
        kind = kind_of(name, self.configs)

        def attempt(folder: Path) -> None:
            known = self._lesson(moment)
            if known.teaches:
                kind.attempt(known, judging.open(), folder).save(folder)

        return self.workspace.run(
            f"trial-{name}",
            attempt,
            config=kind.config,
            facts=self._facts(),
            inputs=[*moment.steps, judging.step],
            code=_code(kind),
        )

    def train(self, moment: Moment, choice: Step) -> Step:
        """The ranker that `choice` says, learned from all of `moment`: `rank/ranker.onnx`."""
        chosen = Choice.load(choice.folder)
        parts = [self._train(name, moment, chosen) for name in chosen.weights]
        if len(parts) == 1:
            return parts[0]

        def add(folder: Path) -> None:
            paths = [step.folder / GRAPH_FILE for step in parts]
            graph.add_graphs(paths, list(chosen.weights.values()), folder / GRAPH_FILE)

        return self.workspace.run("ranker", add, facts=chosen.weights, inputs=parts, code=[graph])

    def _train(self, name: str, moment: Moment, chosen: Choice) -> Step:
        kind, settings = kind_of(name, self.configs), chosen.settings.get(name, {})

        def train(folder: Path) -> None:
            (folder / GRAPH_FILE).parent.mkdir(parents=True, exist_ok=True)
            kind.train(self._lesson(moment), folder / GRAPH_FILE, settings)

        return self.workspace.run(
            f"ranker-{name}",
            train,
            config=kind.config,
            facts=[*self._facts(), settings],
            inputs=moment.steps,
            code=_code(kind),
        )

    def _lesson(self, moment: Moment) -> Lesson:
        ranker = self.configs.ranker
        return Lesson(
            tuple(source.open() for source in moment.sources),
            moment.item_ids,
            self.feature_names,
            moment.rating.folder if moment.rating else None,
            ranker.cold_share,
            ranker.seed,
        )

    def _facts(self) -> list[object]:
        return [list(self.feature_names), self.configs.ranker.cold_share, self.configs.ranker.seed]


def _code(kind: RankerKind) -> list[ModuleType]:
    return [kinds, lesson, graph, *kind.modules]
