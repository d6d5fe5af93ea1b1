"""The recall models of one training view: one step per channel, and one folder that shows them as a bundle would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from offline.dataset.interactions import Dataset, Snapshot, save_catalogue
from offline.protocols import TrainingView
from offline.recall.text.vectors import text_vectors
from offline.steps.linking import link_folders
from offline.steps.workspace import Step, Workspace
from offline.workflow.config import RecallConfig
from recsys.catalogue import Catalogue
from recsys.channels import CHANNELS, FALLBACK_CHANNEL, ChannelSpec
from recsys.domain import Ids

TEXT = "text"
"""Step of the text vectors."""


@dataclass(frozen=True)
class RecallModels:
    """The trained channels of one cut-off."""

    cutoff: int
    dataset: Dataset
    """What was known then, and later."""
    catalogue: Step
    channels: dict[str, Step]
    """By name, in the order of the registry; each a folder that a bundle takes over as it is."""
    view: Step
    """One folder with all parts side by side, for `Channel.open`."""
    text: Step | None = None
    """Text vectors of the items, where a channel reads them; no part of a bundle."""

    def known(self) -> Snapshot:
        """What the channels were trained on; made again where the data set has not kept it."""
        return self.dataset.snapshot(self.cutoff)

    @cached_property
    def item_ids(self) -> Ids:
        """The ids of the catalogue, ascending."""
        return self.dataset.items_at(self.cutoff).item_ids

    @property
    def parts(self) -> tuple[Step, ...]:
        """The catalogue, then one step per channel."""
        return (self.catalogue, *self.channels.values())


class RecallSteps:
    """The recall models of every training view of a plan; each is trained when it is first asked for."""

    def __init__(self, workspace: Workspace, config: RecallConfig, tables: Step) -> None:
        self._workspace, self._config, self._tables = workspace, config, tables
        self._trained: dict[str, RecallModels] = {}

    def models(self, view: TrainingView) -> RecallModels:
        """The models of one view; those that they continue from are trained first."""
        if view.name not in self._trained:
            earlier = self.models(view.earlier) if view.earlier else None
            self._trained[view.name] = train_recall(
                self._workspace, view.dataset, view.cutoff, config=self._config, tables=self._tables, earlier=earlier
            )
        return self._trained[view.name]


def train_recall(
    workspace: Workspace,
    dataset: Dataset,
    cutoff: int,
    *,
    config: RecallConfig,
    tables: Step,
    earlier: RecallModels | None = None,
) -> RecallModels:
    """Trains the configured channels on what was known at `cutoff`; some continue from an earlier cut-off's."""
    known = partial(dataset.snapshot, cutoff)
    catalogue = workspace.run(
        "catalogue",
        save_catalogue,
        # What a protocol keeps of the tables is made before any step: its outcome is in the key, not its code.
        facts=dataset.digest(cutoff),
        inputs=[tables],
        given=known,
    )
    text = _text_step(workspace, config, inputs=(tables, catalogue), earlier=earlier)
    channels: dict[str, Step] = {}
    for spec in _trained(config):
        there = {"tables": tables, "text": text, "earlier": earlier.channels.get(spec.name) if earlier else None}
        needed = {name: step for name, step in there.items() if name in spec.needs}
        folders = {name: folder_of(step) for name, step in needed.items()}
        settings = config.settings[spec.name]
        channels[spec.name] = workspace.run(
            spec.name,
            partial(spec.load_trainer(), config=settings, **folders),
            config=settings,
            # The catalogue stands for the tables, from which it is made.
            inputs=[catalogue, *(step for name, step in needed.items() if step and name != "tables")],
            given=known,
        )
    parts = [catalogue, *channels.values()]
    view = workspace.run(
        "recall",
        partial(link_folders, [part.folder for part in parts]),
        inputs=parts,
        also=[CHANNELS[name].load_channel() for name in channels],
    )
    return RecallModels(cutoff, dataset, catalogue, channels, view, text)


def folder_of(step: Step | None) -> Path | None:
    """Where a step's files are; None without a step."""
    return None if step is None else step.folder


def _trained(config: RecallConfig) -> Iterator[ChannelSpec]:
    return (spec for spec in CHANNELS.values() if spec.name in config.channels or spec.name == FALLBACK_CHANNEL)


def _text_step(
    workspace: Workspace, config: RecallConfig, *, inputs: tuple[Step, Step], earlier: RecallModels | None
) -> Step | None:
    """Text vectors for the channels, in the space of those of an earlier cut-off; `inputs`: tables, catalogue."""
    if not config.reads_text:
        return None
    before = earlier.text if earlier else None
    return text_step(workspace, Catalogue.load(inputs[1].folder), config, inputs=inputs, before=before)


def text_step(
    workspace: Workspace,
    catalogue: Catalogue,
    config: RecallConfig,
    *,
    inputs: Sequence[Step],
    before: Step | None,
    facts: object = None,
) -> Step:
    """Text vectors of the items of `catalogue`, in the space of `before` where there is such a step.

    The first of `inputs` are the tables; `facts` are what the step depends on besides.
    """
    return workspace.run(
        TEXT,
        partial(
            text_vectors,
            inputs[0].folder,
            catalogue,
            config=config.text,
            cache=workspace.root.with_name("text-vectors.sqlite"),
            earlier=folder_of(before),
        ),
        config=config.text,
        facts=facts,
        inputs=[*inputs, *([before] if before else [])],
    )
