"""From trained models to published bundles: what a bundle is made of, its evaluation, its release."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from offline.evaluation.evaluate import ModelFiles, Models, write_report
from offline.evaluation.reranking.lists import write_bonus
from offline.ingest.report import IngestReport
from offline.protocols import BundleFit, Plan, TrainingView
from offline.protocols.targets import TargetKind, Targets
from offline.publish.gateway_files import export_gateway
from offline.publish.golden_requests import golden_requests, write_golden
from offline.publish.publish import REPORT_FOLDER, BundleFacts, publish
from offline.steps.linking import link_folders
from offline.steps.sampling import samples_of
from offline.steps.workspace import Step, Workspace
from offline.workflow.config import OfflineConfig, Purpose
from offline.workflow.ranker_steps import RankerSteps
from offline.workflow.recall_steps import RecallModels, RecallSteps
from recall_server.channels.registry import open_channels
from recall_server.channels.vector import VectorChannel, read_facts
from recsys.bundle import ServingPolicy


@dataclass(frozen=True, slots=True)
class BundleParts:
    """Everything a bundle of one cut-off is made of."""

    recall: RecallModels
    steps: tuple[Step, ...]
    policy: ServingPolicy
    feature_names: tuple[str, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders whose union is the bundle."""
        return tuple(step.folder for step in self.steps)


@dataclass(frozen=True)
class BundleSteps:
    """The bundles of one plan, evaluation and release included."""

    workspace: Workspace
    config: OfflineConfig
    plan: Plan
    tables: Step
    recall: RecallSteps
    ranking: RankerSteps

    def parts(self, purpose: Purpose) -> BundleParts:
        """What the bundle of one purpose is made of; raises DataError where the protocol has no such bundle."""
        fit = self.plan.evaluation if purpose == "evaluation" else self.plan.production
        if fit is None:
            raise self.plan.not_served()
        return self.parts_of(fit)

    def parts_of(self, fit: BundleFit) -> BundleParts:
        """What the bundle of one fit of the plan is made of."""
        model, recall = self.ranking.ranker(fit), self.recall.models(fit.training_view)
        arrays = self.ranking.features(fit.training_view)
        gateway = self.workspace.run(
            "gateway",
            partial(export_gateway, recall=recall.view.folder, tables=self.tables.folder),
            inputs=[recall.view],
            given=recall.known,
        )
        steps: tuple[Step, ...] = (*recall.parts, model, arrays, gateway)
        if self.config.rerank.exposure:
            steps = (*steps, self._exposure(recall, steps))
        return BundleParts(recall, steps, self.ranking.policy, self.ranking.feature_names(fit.training_view))

    def models(self, fit: BundleFit) -> Models:
        """The channels, ranker and re-ranker of one fit, in this process."""
        return self._files(self.parts_of(fit)).open()

    def channels_alone(self, view: TrainingView) -> Models:
        """The configured channels of one view, without a blend and a ranker: nothing is chosen."""
        recall, policy = self.recall.models(view), self.config.serving.policy(self.config.dataset)
        return Models(recall.known(), open_channels(policy, recall.view.folder), None, policy)

    def test_targets(self, kind: TargetKind) -> Targets:
        """What the test asks, and what should be found; raises DataError for targets that the protocol has not."""
        self.plan.check_kind(kind)
        fold, known = self.plan.test, self.recall.models(self.plan.test.training_view).known()
        return fold.ask(known, kind, max_users=self.config.evaluation.max_users, seed=self.config.seed)

    def evaluation(self, kind: TargetKind) -> Step:
        """The report on the evaluation bundle's models: `report/<kind>.json` and `.md`."""
        self.plan.check_kind(kind)
        parts, choice = self.parts("evaluation"), self.ranking.choice
        return self.workspace.run(
            "evaluation",
            partial(
                write_report,
                self._files(parts),
                partial(self.test_targets, kind),
                choice.folder,
                name=self.config.dataset,
                kind=kind,
                config=self.config.bootstrap,
                trained_on=self._samples(parts),
            ),
            config=self.config.bootstrap,
            facts=[
                kind,
                self.config.evaluation.max_users,
                parts.policy.model_dump(mode="json"),
                self.ranking.facts(self.plan.test),
            ],
            inputs=[*parts.steps, choice],
        )

    def publish(self, purpose: Purpose, *, report: Step | None = None) -> str:
        """Publishes the bundle of one purpose with the evaluation that speaks for it; returns its version.

        Raises DataError where the protocol does not cut time.
        """
        if self.plan.production is None:
            raise self.plan.not_served()
        parts = self.parts(purpose)
        headline = json.loads((report.folder / REPORT_FOLDER / "headline.json").read_text("utf-8")) if report else {}
        facts = BundleFacts(
            purpose,
            self.config.dataset,
            parts.recall.cutoff,
            dict(IngestReport.load(self.tables.folder).events_watermarks),
            parts.policy,
            parts.feature_names,
            read_facts(parts.recall.view.folder).index if VectorChannel.name in parts.recall.channels else None,
            headline,
            self._samples(parts, *([report] if report else [])),
        )
        requests = golden_requests(parts.recall.known())
        return publish(
            self.config.store(purpose),
            [*parts.folders, *([report.folder] if report else [])],
            facts,
            golden=lambda folder: write_golden(folder, parts.policy, requests),
            keep=self.config.keep_bundles,
        )

    def _samples(self, parts: BundleParts, *others: Step) -> tuple[str, ...]:
        """What a bundle and its evaluation were made from where that is a part of the data."""
        steps = (*parts.steps, *self.ranking.chosen_by, *others)
        windows = self.plan.split.sampled if self.plan.split else ()
        return (*windows, *samples_of(step.folder for step in steps))

    def _files(self, parts: BundleParts) -> ModelFiles:
        return ModelFiles(parts.recall.known, parts.policy, self._side_by_side(parts.steps))

    def _side_by_side(self, steps: Sequence[Step]) -> Path:
        folders = [step.folder for step in steps]
        return self.workspace.run("models", partial(link_folders, folders), inputs=steps).folder

    def _exposure(self, recall: RecallModels, steps: Sequence[Step]) -> Step:
        """The bonuses of items, learned from the lists that `steps` make for users of the snapshot."""
        config, seed, policy = self.config.rerank, self.config.seed, self.ranking.policy
        files = ModelFiles(recall.known, policy, self._side_by_side(steps))
        return self.workspace.run(
            "exposure",
            partial(write_bonus, files, config, seed=seed),
            config=config,
            facts=[policy.model_dump(mode="json"), seed],
            inputs=steps,
        )
