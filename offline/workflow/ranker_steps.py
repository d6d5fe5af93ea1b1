"""From recall to the chosen ranker: blend, features, samples, trials, the choice among them, and the last training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

from offline.protocols import BundleFit, Fold, Plan, TrainingView
from offline.protocols.targets import Targets
from offline.ranking import samples
from offline.ranking.blend import POLICY_FILE, choose_blend
from offline.ranking.rankers.choice import RankerChoice
from offline.ranking.rankers.steps import FoldSamples, RankerInputs, Rankers
from offline.ranking.rankers.svd import train_rating_model
from offline.steps.workspace import Step, Workspace
from offline.workflow.config import OfflineConfig
from offline.workflow.recall_steps import RecallSteps, folder_of
from recsys.bundle import ServingPolicy
from recsys.catalogue import Catalogue
from recsys.features import FeatureStore


class RankerSteps:
    """The second stage of one plan. Each step is run when it is first asked for."""

    def __init__(self, workspace: Workspace, config: OfflineConfig, plan: Plan, recall: RecallSteps) -> None:
        self._workspace, self._config, self._plan, self._recall = workspace, config, plan, recall

    @cached_property
    def policy(self) -> ServingPolicy:
        """Channels, blend weights, rank count and order, chosen on validation."""
        ranking = RankerChoice.load(self.choice.folder).ranking
        return self.blend.model_copy(update={"ranking": ranking, "rerank": self._config.rerank.policy()})

    @property
    def chosen_by(self) -> tuple[Step, Step]:
        """What chose the policy: no part of a bundle, but it was made from them."""
        return self._blend, self.choice

    @cached_property
    def blend(self) -> ServingPolicy:
        """The policy before it is known whether ranking pays."""
        return ServingPolicy.model_validate_json((self._blend.folder / POLICY_FILE).read_text("utf-8"))

    @cached_property
    def _blend(self) -> Step:
        fold, config = self._plan.validation, self._config.blend
        recall, start = self._recall.models(fold.training_view), self._config.serving.policy(self._config.dataset)
        ask = self._ask(fold, config.max_users)
        return self._workspace.run(
            "blend",
            partial(choose_blend, recall=recall.view.folder, ask=ask, start=start, config=config),
            config=config,
            facts=[start.model_dump(mode="json"), self.facts(fold)],
            inputs=[recall.view],
            given=recall.known,
        )

    def features(self, view: TrainingView) -> Step:
        """The arrays that features are made of, as they were known in one view."""
        recall, policy = self._recall.models(view), self.blend
        rating = self.rating(view) if self._config.samples.svd_rating else None
        return self._workspace.run(
            "features",
            partial(samples.save_features, policy=policy, rating=folder_of(rating)),
            facts=[channel.name for channel in policy.channels],
            inputs=[recall.view, *([rating] if rating else [])],
            given=recall.known,
        )

    def feature_names(self, view: TrainingView) -> tuple[str, ...]:
        """The names of the features' columns, in order."""
        catalogue = Catalogue.load(self._recall.models(view).catalogue.folder)
        return FeatureStore.open(self.features(view).folder, catalogue).feature_names

    def samples(self, fold: Fold, *, evaluated: bool = False) -> Step:
        """Recall's output for the fold's requests, labelled by what they should find; all of it if `evaluated`."""
        recall, arrays, policy = self._recall.models(fold.training_view), self.features(fold.training_view), self.blend
        config, workers = self._config.samples.outcome(evaluated=evaluated), self._config.samples.workers
        source = samples.SampleInputs(recall.view.folder, arrays.folder, policy, config)
        return self._workspace.run(
            "samples",
            partial(samples.sample_fold, source, self._ask(fold, config.max_users), workers=workers),
            config=config,
            facts=[policy.model_dump(mode="json"), self.facts(fold)],
            inputs=[recall.view, arrays],
        )

    def rating(self, view: TrainingView) -> Step:
        """The rating model of one view."""
        recall = self._recall.models(view)
        return self._workspace.run(
            "rating",
            partial(train_rating_model, config=self._config.rating),
            config=self._config.rating,
            inputs=[recall.catalogue],
            given=recall.known,
        )

    @cached_property
    def rankers(self) -> Rankers:
        """Every ranker that is tried, over this configuration's features."""
        names = self.feature_names(self._plan.selection_validation.training_view)
        return Rankers(self._workspace, self._config.rankers, names)

    @cached_property
    def choice(self) -> Step:
        """Which ranker is published, with how many rounds, and whether it beats the blended order."""
        return self.rankers.choose(*self.selection_inputs(rating=self._config.ranker.needs_rating))

    def selection_inputs(self, *, rating: bool) -> tuple[RankerInputs, FoldSamples]:
        """What rankers are trained on while one is selected, with a rating model if wanted, and what decides."""
        validation = self._plan.selection_validation
        inputs = self._inputs(self._plan.selection_train, validation.training_view, rating=rating)
        return inputs, self._fold_samples(validation, evaluated=True)

    def ranker(self, fit: BundleFit) -> Step:
        """The chosen ranker, which learned from all folds of `fit`."""
        inputs = self._inputs(fit.training, fit.training_view, rating=self._config.ranker.needs_rating)
        return self.rankers.train(inputs, self.choice)

    def facts(self, fold: Fold) -> list[int | str]:
        """What decides a fold's requests besides its view and the code: part of the keys of the steps that ask them."""
        return [*fold.identity, self._plan.labels, self._config.seed]

    def _ask(self, fold: Fold, max_users: int) -> Callable[[], Targets]:
        known, labels, seed = self._recall.models(fold.training_view).known, self._plan.labels, self._config.seed
        return lambda: fold.ask(known(), labels, max_users=max_users, seed=seed)

    def _inputs(self, folds: Sequence[Fold], view: TrainingView, *, rating: bool) -> RankerInputs:
        return RankerInputs(
            [self._fold_samples(fold) for fold in folds],
            self._recall.models(view).item_ids,
            self.rating(view) if rating else None,
        )

    def _fold_samples(self, fold: Fold, *, evaluated: bool = False) -> FoldSamples:
        return FoldSamples(self.samples(fold, evaluated=evaluated), self._recall.models(fold.training_view).item_ids)
