"""From tables to two published bundles, as steps that are not run again while nothing they depend on changed.

The protocol's plan says who knows what (`offline.protocols`). Where time is cut, and that is what is served:

cut-offs  … windows … T1 ──────────── T2 ──────────── end
recall    trained at each one, the towers continuing from the cut-off before
policy    blend weights and rank count, chosen on (T1, T2]
samples   recall's real output at each cut-off, labelled by what follows, as far as was known at a moment
ranker    kind and rounds chosen on (T1, T2]; trained again on all known at T2 (evaluation), at the end (production)
bundle    evaluation: nothing in it is later than T2; production: refitted to the end
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gateway.bundle import state
from gateway.pipeline import fallback, filters, merge, pipeline, post_ranking, request, stages
from gateway.pipeline import rerank as gateway_rerank
from gateway.pipeline.fallback import Fallback
from gateway.pipeline.rerank import Reranker
from offline.dataset.interactions import Dataset
from offline.dataset.splits import Split
from offline.dataset.tables import IdTables
from offline.evaluation import evaluate
from offline.evaluation import results as evaluation
from offline.evaluation.evaluate import Models
from offline.evaluation.reranking import exposure, lists
from offline.ingest.prepare import prepare_tables
from offline.ingest.report import IngestReport
from offline.metrics import ranking as metrics
from offline.metrics import text_table as layout
from offline.protocols import BundleFit, Fold, Plan, TrainingView, held_out, plan_of, targets
from offline.protocols.targets import TargetKind, Targets
from offline.publish import gateway_files
from offline.publish.gateway_files import export_gateway
from offline.publish.golden_requests import golden_requests, write_golden
from offline.publish.publish import REPORT_FOLDER, BundleFacts, publish
from offline.ranking import blend, samples
from offline.ranking.rankers import choice as choosing
from offline.ranking.rankers import svd
from offline.ranking.rankers.choice import RankerChoice
from offline.ranking.rankers.steps import FoldSamples, RankerInputs, Rankers
from offline.recall.training import RecallModels, link_folders, train_recall
from offline.steps.workspace import Step, Workspace
from offline.workflow.config import OfflineConfig, Purpose
from rank_server import scoring
from rank_server.scoring import Ranker
from recall_server.channels import als, base, channel_class, content, evidence, itemcf, linear, popularity, vector
from recall_server.channels.base import Channel
from recall_server.channels.popularity import PopularityChannel
from recall_server.channels.vector import read_facts
from recsys import domain, features, ordering
from recsys.bundle import ServingPolicy
from recsys.errors import DataError
from recsys.features import FeatureStore, rating
from recsys.features.rating import RatingModel

log = logging.getLogger(__name__)

FEATURE_MODULES = (features,)
SERVING_MODULES = (
    pipeline,
    post_ranking,
    request,
    merge,
    filters,
    fallback,
    stages,
    base,
    popularity,
    itemcf,
    vector,
    als,
    content,
    linear,
    evidence,
    scoring,
    domain,
    ordering,
)
"""What lists are made by: a change to any of it makes samples, choices and reports anew."""
REPORT_MODULES = (evaluate, evaluation, layout, metrics, choosing, gateway_rerank)
"""What measures lists, and writes what was found."""
TARGET_MODULES = (targets, held_out)
"""What requests and their targets are made by."""


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


class Workflow:
    """The steps of one configuration. Each is run when it is first asked for."""

    def __init__(self, config: OfflineConfig) -> None:
        self.config = config
        self.workspace = Workspace(config.home / "work")
        self._recall: dict[str, RecallModels] = {}

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

    def recall_of(self, view: TrainingView) -> RecallModels:
        """The recall models of one place of the plan; those they continue from are trained first."""
        if view.name not in self._recall:
            self._recall[view.name] = train_recall(
                self.workspace,
                view.dataset,
                view.cutoff,
                config=self.config.recall,
                tables=self.tables,
                earlier=self.recall_of(view.earlier) if view.earlier else None,
            )
        return self._recall[view.name]

    @cached_property
    def policy(self) -> ServingPolicy:
        """Channels, blend weights, rank count and order, chosen on validation."""
        ranking = RankerChoice.load(self.choice.folder).ranking
        return self.blend.model_copy(update={"ranking": ranking, "rerank": self.config.rerank.policy()})

    @cached_property
    def blend(self) -> ServingPolicy:
        """The policy before it is known whether ranking pays."""
        fold = self.plan.validation
        recall = self.recall_of(fold.training_view)
        start = self.config.serving.policy(self.config.dataset)

        def choose(folder: Path) -> None:
            held_out = self._targets(fold, self.config.blend.max_users)
            queries = samples.record_queries(
                recall.snapshot, _channels(recall, start), held_out, policy=blend.pool_policy(start)
            )
            chosen = blend.choose_policy(queries, held_out, start, self.config.blend)
            (folder / "policy.json").write_text(chosen.model_dump_json(indent=1), "utf-8")

        step = self.workspace.run(
            "blend",
            choose,
            config=self.config.blend,
            facts=[start.model_dump(mode="json"), self._facts(fold)],
            inputs=[recall.view],
            code=[blend, samples, *TARGET_MODULES, *SERVING_MODULES],
        )
        return ServingPolicy.model_validate_json((step.folder / "policy.json").read_text("utf-8"))

    def features_of(self, view: TrainingView) -> Step:
        """The arrays that features are made of, as they were known at one place of the plan."""
        recall, policy = self.recall_of(view), self.blend
        model = self.rating_of(view) if self.config.samples.svd_rating else None

        def make(folder: Path) -> None:
            rated = RatingModel.open(model.folder) if model else None
            samples.feature_store(recall.snapshot, policy, rating=rated).save(folder)

        return self.workspace.run(
            "features",
            make,
            facts=[channel.name for channel in policy.channels],
            inputs=[recall.view, *([model] if model else [])],
            code=FEATURE_MODULES,
        )

    def samples_of(self, fold: Fold, *, evaluated: bool = False) -> Step:
        """Recall's output for the fold's requests, labelled by what they should find; all of it if evaluated."""
        recall, policy = self.recall_of(fold.training_view), self.blend
        config, arrays = self.config.samples.outcome(evaluated=evaluated), self.features_of(fold.training_view)

        def make(folder: Path) -> None:
            asked = samples.blocks_of(self._targets(fold, config.max_users), config.shard_requests)
            source = samples.SampleInputs(recall.view.folder, arrays.folder, policy, config)
            samples.write_samples(folder, source, asked, workers=self.config.samples.workers)

        return self.workspace.run(
            "samples",
            make,
            config=config,
            facts=[policy.model_dump(mode="json"), self._facts(fold)],
            inputs=[recall.view, arrays],
            code=[samples, *TARGET_MODULES, *FEATURE_MODULES, *SERVING_MODULES],
        )

    def rating_of(self, view: TrainingView) -> Step:
        """The rating model of one place of the plan."""
        recall = self.recall_of(view)
        return self.workspace.run(
            "rating",
            lambda folder: svd.train_rating_model(recall.snapshot, folder, self.config.rating),
            config=self.config.rating,
            inputs=recall.parts[:1],
            code=[svd, rating],
        )

    @cached_property
    def rankers(self) -> Rankers:
        """Every ranker that is tried, over this configuration's features."""
        view = self.plan.selection_validation.training_view
        names = _feature_names(self.recall_of(view), self.features_of(view))
        return Rankers(self.workspace, self.config.rankers, names)

    @cached_property
    def choice(self) -> Step:
        """Which ranker is published, with how many rounds, and whether it beats the blended order."""
        return self.rankers.choose(*self.selection_inputs(rating=self.config.ranker.needs_rating))

    def selection_inputs(self, *, rating: bool) -> tuple[RankerInputs, FoldSamples]:
        """What rankers are trained on while one is selected, with a rating model if wanted, and what validates them."""
        validation = self.plan.selection_validation
        return self._ranker_inputs(
            self.plan.selection_train, validation.training_view, rating=rating
        ), self._fold_samples(validation, evaluated=True)

    def ranker_of(self, fit: BundleFit) -> Step:
        """The chosen ranker, which learned from all folds of `fit`."""
        inputs = self._ranker_inputs(fit.training, fit.training_view, rating=self.config.ranker.needs_rating)
        return self.rankers.train(inputs, self.choice)

    def parts(self, purpose: Purpose) -> BundleParts:
        """What the bundle of one purpose is made of; raises DataError where the protocol has no such bundle."""
        fit = self.plan.evaluation if purpose == "evaluation" else self.plan.production
        if fit is None:
            raise self.plan.not_served()
        return self._parts_of(fit)

    def _parts_of(self, fit: BundleFit) -> BundleParts:
        model, recall = self.ranker_of(fit), self.recall_of(fit.training_view)
        arrays = self.features_of(fit.training_view)
        gateway = self.workspace.run(
            "gateway",
            lambda folder: export_gateway(
                recall.snapshot,
                PopularityChannel.open(recall.view.folder),
                IdTables.load(self.tables.folder).users,
                folder,
            ),
            inputs=[recall.view],
            code=[gateway_files, state],
        )
        steps: tuple[Step, ...] = (*recall.parts, model, arrays, gateway)
        if self.config.rerank.exposure:
            steps = (*steps, self._exposure(recall, steps))
        return BundleParts(recall, steps, self.policy, _feature_names(recall, arrays))

    def models(self, fit: BundleFit | None = None) -> Models:
        """The channels, ranker and re-ranker of `fit`, the evaluation bundle's unless told, in this process."""
        parts = self._parts_of(fit or self.plan.evaluation)
        opened = self._opened(parts.recall, parts.steps)
        if parts.policy.rerank is None:
            return opened
        folder, catalogue = self._side_by_side(parts.steps), parts.recall.snapshot.catalogue
        return replace(opened, reranker=Reranker.open(folder, catalogue, parts.policy.rerank))

    @property
    def validation_fit(self) -> BundleFit:
        """What models know when the validation fold is asked: `models(validation_fit)`."""
        return BundleFit(self.plan.validation.training_view, self.plan.selection_train)

    def _opened(self, recall: RecallModels, steps: Sequence[Step]) -> Models:
        folder, policy = self._side_by_side(steps), self.policy
        return Models(
            recall.snapshot,
            _channels(recall, policy),
            Ranker.open(folder),
            policy,
            Fallback.open(folder, recall.snapshot.catalogue),
        )

    def _side_by_side(self, steps: Sequence[Step]) -> Path:
        folders = [step.folder for step in steps]
        return self.workspace.run("models", lambda folder: link_folders(folders, folder), inputs=steps).folder

    def _exposure(self, recall: RecallModels, steps: Sequence[Step]) -> Step:
        """The bonuses of items, learned from the lists that `steps` make for users of the snapshot."""
        config, seed = self.config.rerank, self.config.seed
        return self.workspace.run(
            "exposure",
            lambda folder: lists.train_bonus(self._opened(recall, steps), config, folder, seed=seed),
            config=config,
            facts=[self.policy.model_dump(mode="json"), seed],
            inputs=steps,
            code=[lists, exposure, gateway_rerank, *FEATURE_MODULES, *SERVING_MODULES],
        )

    def channels_alone(self, view: TrainingView) -> Models:
        """The configured channels at one place of the plan, without a blend and a ranker: nothing is chosen."""
        recall, policy = self.recall_of(view), self.config.serving.policy(self.config.dataset)
        return Models(recall.snapshot, _channels(recall, policy), None, policy)

    def test_targets(self, kind: TargetKind) -> Targets:
        """What the test asks, and what should be found; raises DataError for targets that the protocol has not."""
        self.plan.check_kind(kind)
        fold = self.plan.test
        return fold.ask(self.recall_of(fold.training_view).snapshot, kind)

    def evaluation(self, kind: TargetKind) -> Step:
        """The report on the evaluation bundle's models: `report/<kind>.json` and `.md`."""
        self.plan.check_kind(kind)
        parts = self.parts("evaluation")

        def make(folder: Path) -> None:
            asked = self.test_targets(kind)
            result = evaluate.evaluate(
                self.models(), asked, name=self.config.dataset, kind=kind, config=self.config.bootstrap
            )
            replace(result, choice=RankerChoice.load(self.choice.folder)).save(folder / REPORT_FOLDER)

        return self.workspace.run(
            "evaluation",
            make,
            config=self.config.bootstrap,
            facts=[kind, parts.policy.model_dump(mode="json"), self._facts(self.plan.test)],
            inputs=[*parts.steps, self.choice],
            code=[*REPORT_MODULES, *TARGET_MODULES, *FEATURE_MODULES, *SERVING_MODULES],
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
            self._watermarks(),
            parts.policy,
            parts.feature_names,
            read_facts(parts.recall.view.folder).index if parts.recall.towers else None,
            headline,
        )
        requests = golden_requests(parts.recall.snapshot)
        return publish(
            self.config.store(purpose),
            [*parts.folders, *([report.folder] if report else [])],
            facts,
            golden=lambda folder: write_golden(folder, parts.policy, requests),
            keep=self.config.keep_bundles,
        )

    def _targets(self, fold: Fold, max_users: int) -> Targets:
        snapshot = self.recall_of(fold.training_view).snapshot
        return fold.ask(snapshot, self.plan.labels, max_users=max_users, seed=self.config.seed)

    def _ranker_inputs(self, folds: Sequence[Fold], view: TrainingView, *, rating: bool) -> RankerInputs:
        return RankerInputs(
            [self._fold_samples(fold) for fold in folds],
            self.recall_of(view).snapshot.catalogue.item_ids,
            self.rating_of(view) if rating else None,
        )

    def _fold_samples(self, fold: Fold, *, evaluated: bool = False) -> FoldSamples:
        return FoldSamples(
            self.samples_of(fold, evaluated=evaluated), self.recall_of(fold.training_view).snapshot.catalogue.item_ids
        )

    def _facts(self, fold: Fold) -> list[int | str]:
        return [*fold.identity, self.plan.labels, self.config.seed]

    def _watermarks(self) -> dict[str, int]:
        return dict(IngestReport.load(self.tables.folder).events_watermarks)


def _feature_names(recall: RecallModels, arrays: Step) -> tuple[str, ...]:
    return FeatureStore.open(arrays.folder, recall.snapshot.catalogue).feature_names


def _channels(recall: RecallModels, policy: ServingPolicy) -> list[Channel]:
    return [channel_class(channel.name).open(recall.view.folder) for channel in policy.channels]
