"""From tables to two published bundles, as steps that are not run again while nothing they depend on changed.

The protocol's plan says who knows what (`offline.protocols`). Where time is cut, and that is what is served:

cut-offs  … windows … T1 ──────────── T2 ──────────── end
recall    trained at each one, the towers continuing from the cut-off before          `recall_steps`
policy    blend weights and rank count, chosen on (T1, T2]                             `ranker_steps`
samples   recall's real output at each cut-off, labelled by what follows, as far as was known then
ranker    kind and rounds chosen on (T1, T2]; trained again on all known at T2 (evaluation), at the end (production)
bundle    evaluation: nothing in it is later than T2; production: refitted to the end  `bundle_steps`
"""

from __future__ import annotations

from functools import cached_property

from offline.dataset.interactions import Dataset
from offline.dataset.splits import Split
from offline.evaluation.evaluate import Models
from offline.ingest.prepare import prepare_tables
from offline.protocols import BundleFit, Plan, TrainingView, plan_of
from offline.protocols.targets import TargetKind, Targets
from offline.steps.workspace import Step, Workspace
from offline.workflow.bundle_steps import BundleParts, BundleSteps
from offline.workflow.config import OfflineConfig, Purpose
from offline.workflow.ranker_steps import RankerSteps
from offline.workflow.recall_steps import RecallSteps
from recsys.errors import DataError


class Workflow:
    """The steps of one configuration. Each is run when it is first asked for."""

    def __init__(self, config: OfflineConfig) -> None:
        self.config = config
        self.workspace = Workspace(config.home / "work")

    @cached_property
    def tables(self) -> Step:
        """The ingested tables."""
        return prepare_tables(self.config.ingest_inputs)

    @cached_property
    def dataset(self) -> Dataset:
        """The tables in memory."""
        return Dataset.load(self.config.dataset, self.tables.folder)

    @cached_property
    def plan(self) -> Plan:
        """Who learns from what, and what is asked."""
        return plan_of(self.dataset, self.config.split)

    @property
    def split(self) -> Split:
        """Where time is cut; raises DataError where the protocol does not cut it."""
        if self.plan.split is None:
            raise DataError(
                f"{self.plan.protocol} does not cut time; choose --split.protocol temporal or time-to-split"
            )
        return self.plan.split

    @cached_property
    def recall(self) -> RecallSteps:
        """The first stage: recall models of every training view."""
        return RecallSteps(self.workspace, self.config.recall, self.tables)

    @cached_property
    def ranking(self) -> RankerSteps:
        """The second stage: policy, features, samples and rankers."""
        return RankerSteps(self.workspace, self.config, self.plan, self.recall)

    @cached_property
    def bundles(self) -> BundleSteps:
        """Bundles, their evaluation and their release."""
        return BundleSteps(self.workspace, self.config, self.plan, self.tables, self.recall, self.ranking)

    @property
    def validation_fit(self) -> BundleFit:
        """What models know when the validation fold is asked: `models(validation_fit)`."""
        return BundleFit(self.plan.validation.training_view, self.plan.selection_train)

    def models(self, fit: BundleFit | None = None) -> Models:
        """The channels, ranker and re-ranker of `fit`, or of the evaluation bundle, in this process."""
        return self.bundles.models(fit or self.plan.evaluation)

    def channels_alone(self, view: TrainingView) -> Models:
        """The configured channels of one view, without a blend and a ranker: nothing is chosen."""
        return self.bundles.channels_alone(view)

    def test_targets(self, kind: TargetKind) -> Targets:
        """What the test asks, and what should be found; raises DataError for targets that the protocol has not."""
        return self.bundles.test_targets(kind)

    def parts(self, purpose: Purpose) -> BundleParts:
        """What the bundle of one purpose is made of; raises DataError where the protocol has no such bundle."""
        return self.bundles.parts(purpose)

    def evaluation(self, kind: TargetKind) -> Step:
        """The report on the evaluation bundle's models."""
        return self.bundles.evaluation(kind)

    def publish(self, purpose: Purpose, *, report: Step | None = None) -> str:
        """Publishes the bundle of one purpose with the evaluation that speaks for it; returns its version."""
        return self.bundles.publish(purpose, report=report)
