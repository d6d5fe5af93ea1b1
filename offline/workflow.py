"""From tables to two published bundles, as steps that are not run again while nothing they depend on changed.

cut-offs  … windows … T1 ──────────── T2 ──────────── end
recall    trained at each one, the towers continuing from the cut-off before
policy    blend weights and rank count, chosen on (T1, T2]
samples   recall's real output at each cut-off, labelled by what follows, as far as was known at a moment
ranker    rounds chosen on (T1, T2]; trained again on all that is known at T2 (evaluation), at the end (production)
bundle    evaluation: nothing in it is later than T2; production: refitted to the end
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gateway import fallback, filters, merge, pipeline, stages, state
from gateway.fallback import Fallback
from gateway.pipeline import Request
from offline import blend, evaluate, evaluation, gateway_files, metrics, ranker, ranker_export, samples, targets
from offline.config import OfflineConfig, Purpose
from offline.evaluate import Models
from offline.gateway_files import export_gateway
from offline.golden import write_golden
from offline.ingest_report import IngestReport
from offline.interactions import Dataset
from offline.preparation import prepare_tables
from offline.publish import REPORT_FOLDER, BundleFacts, publish
from offline.recall import RecallModels, link_folders, train_recall
from offline.splits import Split, Window, split
from offline.steps import Step, Workspace
from offline.tables import IdTables
from offline.targets import TargetKind, Targets, targets_of
from rank_server import scoring
from rank_server.scoring import Ranker
from recall_server.channels import base, channel_class, itemcf, popularity, vector
from recall_server.channels.base import Channel
from recall_server.channels.popularity import PopularityChannel
from recall_server.channels.vector import read_facts
from recsys import domain, ordering
from recsys.bundle import ServingPolicy
from recsys.domain import History
from recsys.features import FeatureStore, crosses, items, store, user

log = logging.getLogger(__name__)

FEATURE_MODULES = (crosses, items, store, user)
SERVING_MODULES = (
    pipeline,
    merge,
    filters,
    fallback,
    stages,
    base,
    popularity,
    itemcf,
    vector,
    scoring,
    domain,
    ordering,
)
"""What lists are made by: a change to any of it makes samples, choices and reports anew."""
GOLDEN_USERS = 6
GOLDEN_COUNT = 50


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
        self._recall: dict[int, RecallModels] = {}

    @cached_property
    def tables(self) -> Step:
        """The ingested tables."""
        return prepare_tables(self.config)

    @cached_property
    def dataset(self) -> Dataset:
        """The tables in memory."""
        return Dataset.load(self.config.dataset, self.tables.folder)

    @cached_property
    def split(self) -> Split:
        """The data set, cut in time."""
        return split(self.dataset, self.config.split)

    def recall_at(self, cutoff: int) -> RecallModels:
        """The recall models of one of the split's cut-offs, or of the end; earlier ones are trained first."""
        if cutoff not in self._recall:
            before = [moment for moment in self.split.cutoffs if moment < cutoff]
            self._recall[cutoff] = train_recall(
                self.workspace,
                self.split.dataset,
                cutoff,
                config=self.config.recall,
                tables=self.tables,
                earlier=self.recall_at(before[-1]) if before else None,
            )
        return self._recall[cutoff]

    @cached_property
    def policy(self) -> ServingPolicy:
        """Channels, blend weights, rank count and order, chosen on (T1, T2]."""
        choice = json.loads((self.choice.folder / "choice.json").read_text("utf-8"))
        return self.blend.model_copy(update={"ranking": choice["ranking"]})

    @cached_property
    def blend(self) -> ServingPolicy:
        """The policy before it is known whether ranking pays."""
        recall = self.recall_at(self.split.validation.cutoff)
        start = self.config.serving.policy(self.config.dataset)

        def choose(folder: Path) -> None:
            held_out = self._targets(recall, self.split.validation, self.config.blend.max_users)
            queries = samples.record_queries(
                recall.snapshot, _channels(recall, start), held_out, policy=blend.pool_policy(start)
            )
            chosen = blend.choose_policy(queries, held_out, start, self.config.blend)
            (folder / "policy.json").write_text(chosen.model_dump_json(indent=1), "utf-8")

        step = self.workspace.run(
            "blend",
            choose,
            config=self.config.blend,
            facts=[start.model_dump(mode="json"), self._facts(self.split.validation)],
            inputs=[recall.view],
            code=[blend, samples, targets, *SERVING_MODULES],
        )
        return ServingPolicy.model_validate_json((step.folder / "policy.json").read_text("utf-8"))

    def samples_of(self, window: Window) -> Step:
        """Recall's output at the window's start, labelled by the window."""
        recall, policy = self.recall_at(window.cutoff), self.blend

        def make(folder: Path) -> None:
            labelled = self._targets(recall, window, self.config.samples.max_users)
            samples.collect(recall.snapshot, _channels(recall, policy), labelled, policy=policy).save(folder)

        return self.workspace.run(
            "samples",
            make,
            config=self.config.samples,
            facts=[policy.model_dump(mode="json"), self._facts(window)],
            inputs=[recall.view],
            code=[samples, targets, *FEATURE_MODULES, *SERVING_MODULES],
        )

    @cached_property
    def choice(self) -> Step:
        """How many rounds the ranker needs, and whether it beats the blended order, on (T1, T2]."""
        training = [self.samples_of(window) for window in self.split.labelled_until(self.split.validation.cutoff)]
        held_out = self.samples_of(self.split.validation)

        def choose(folder: Path) -> None:
            chosen = ranker.choose_rounds(
                [step.folder for step in training],
                held_out.folder,
                self.config.ranker,
                feature_names=self._features(self.split.validation.cutoff).feature_names,
            )
            fields = {name: getattr(chosen, name) for name in chosen.__slots__}
            (folder / "choice.json").write_text(json.dumps(fields, indent=1), "utf-8")

        return self.workspace.run(
            "choice", choose, config=self.config.ranker, inputs=[*training, held_out], code=[ranker]
        )

    def ranker_at(self, moment: int) -> Step:
        """The ranker that learned from all that was known at `moment`, with as many rounds as validation chose."""
        training = [self.samples_of(window) for window in self.split.labelled_until(moment)]
        choice = self.choice
        rounds = json.loads((choice.folder / "choice.json").read_text("utf-8"))["rounds"]
        names = self._features(self.split.validation.cutoff).feature_names

        def make(folder: Path) -> None:
            ranker.train(
                [step.folder for step in training], folder, self.config.ranker, rounds=rounds, feature_names=names
            )

        return self.workspace.run(
            "ranker",
            make,
            config=self.config.ranker,
            inputs=[choice, *training],
            code=[ranker, ranker_export],
        )

    def parts(self, purpose: Purpose) -> BundleParts:
        """What the bundle of one purpose is made of."""
        cutoff = self.split.test.cutoff if purpose == "evaluation" else self.split.test.until
        model, recall = self.ranker_at(cutoff), self.recall_at(cutoff)
        definition = self._features(cutoff)
        features = self.workspace.run(
            "features",
            definition.save,
            facts=[list(definition.channels)],
            inputs=[recall.view],
            code=FEATURE_MODULES,
        )
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
        steps = (*recall.parts, model, features, gateway)
        return BundleParts(recall, steps, self.policy, definition.feature_names)

    def models(self) -> Models:
        """The channels and the ranker of the evaluation bundle, opened in this process."""
        parts = self.parts("evaluation")
        snapshot = parts.recall.snapshot
        view = self.workspace.run("models", lambda folder: link_folders(parts.folders, folder), inputs=parts.steps)
        return Models(
            snapshot,
            _channels(parts.recall, parts.policy),
            Ranker.open(view.folder),
            parts.policy,
            Fallback.open(view.folder, snapshot.catalogue),
        )

    def test_targets(self, kind: TargetKind) -> Targets:
        """Requests of the users who were active after T2, and what they took."""
        recall = self.recall_at(self.split.test.cutoff)
        return targets_of(kind, self.split.dataset, recall.snapshot, self.split.test)

    def evaluation(self, kind: TargetKind) -> Step:
        """The report on the evaluation bundle's models: `report/<kind>.json` and `.md`."""
        parts = self.parts("evaluation")

        def make(folder: Path) -> None:
            held_out = self.test_targets(kind)
            result = evaluate.evaluate(
                self.models(), held_out, name=self.config.dataset, kind=kind, config=self.config.bootstrap
            )
            result.save(folder / REPORT_FOLDER)
            (folder / REPORT_FOLDER / "headline.json").write_text(json.dumps(result.headline(), indent=1), "utf-8")
            (folder / REPORT_FOLDER / "table.txt").write_text(result.table() + "\n", "utf-8")

        return self.workspace.run(
            "evaluation",
            make,
            config=self.config.bootstrap,
            facts=[kind, parts.policy.model_dump(mode="json"), self._facts(self.split.test)],
            inputs=parts.steps,
            code=[evaluate, evaluation, metrics, targets, *FEATURE_MODULES, *SERVING_MODULES],
        )

    def publish(self, purpose: Purpose, *, report: Step | None = None) -> str:
        """Publishes the bundle of one purpose with the evaluation that speaks for it; returns its version."""
        parts = self.parts(purpose)
        headline = json.loads((report.folder / REPORT_FOLDER / "headline.json").read_text("utf-8")) if report else {}
        facts = BundleFacts(
            purpose,
            self.config.dataset,
            parts.recall.cutoff,
            self._watermarks(),
            parts.policy,
            parts.feature_names,
            read_facts(parts.recall.view.folder).index,
            headline,
        )
        requests = _golden_requests(parts.recall)
        return publish(
            self.config.store(purpose),
            [*parts.folders, *([report.folder] if report else [])],
            facts,
            golden=lambda folder: write_golden(folder, parts.policy, requests),
            keep=self.config.keep_bundles,
        )

    def _targets(self, recall: RecallModels, window: Window, max_users: int) -> Targets:
        return targets_of(
            "all", self.split.dataset, recall.snapshot, window, max_users=max_users, seed=self.config.seed
        )

    def _features(self, cutoff: int) -> FeatureStore:
        return samples.feature_store(self.recall_at(cutoff).snapshot, self.blend)

    def _facts(self, window: Window) -> list[int]:
        return [window.cutoff, window.until, self.config.seed]

    def _watermarks(self) -> dict[str, int]:
        return dict(IngestReport.load(self.tables.folder).events_watermarks)


def _channels(recall: RecallModels, policy: ServingPolicy) -> list[Channel]:
    return [channel_class(channel.name).open(recall.view.folder) for channel in policy.channels]


def _golden_requests(recall: RecallModels) -> list[Request]:
    """Users with long and short histories, and one without any."""
    snapshot = recall.snapshot
    by_length = (snapshot.indptr[1:] - snapshot.indptr[:-1]).argsort(kind="stable")
    places = [by_length[int(len(by_length) * share)] for share in (0.05, 0.3, 0.5, 0.7, 0.9)]
    users = [int(snapshot.user_ids[place]) for place in dict.fromkeys(places)][: GOLDEN_USERS - 1]
    asked = [Request(snapshot.history(user), snapshot.cutoff, GOLDEN_COUNT, user_id=user) for user in users]
    return [*asked, Request(History.empty(), snapshot.cutoff, GOLDEN_COUNT)]
