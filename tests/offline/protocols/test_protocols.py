"""Every protocol on toy worlds worked out by hand, and the facts of the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.dataset.interactions import Dataset, Interactions
from offline.dataset.splits import Protocol, SplitConfig
from offline.ingest.datasets.registry import open_dataset
from offline.ingest.ingest import ingest
from offline.protocols import Fold, Plan, plan_of
from offline.protocols.leave_one_out import from_the_end
from offline.protocols.random_shares import RELEVANT_VALUE
from offline.protocols.strong import fold_in, liked, users_of
from offline.protocols.targets import Targets
from recsys.errors import DataError
from tests.offline.tastes import dataset_of_tastes, items_of

REAL = Path(__file__).parents[4] / "shared" / "data"
PROTOCOLS: tuple[Protocol, ...] = (
    "temporal",
    "time-to-split",
    "leave-one-out",
    "strong-generalisation",
    "random-60-20-20",
)


def world(rows: list[tuple[int, int, int, float]]) -> Dataset:
    """User, item, time, rating of each event, in order of time."""
    users, items, times, values = (list(column) for column in zip(*rows, strict=True))
    events = Interactions(
        np.asarray(users, np.int64),
        np.asarray(items, np.int64),
        np.asarray(times, np.int64),
        np.ones(len(rows), np.int8),
        np.asarray(values, np.float32),
    )
    return Dataset("toy", events, items_of())


def asked(plan: Plan, fold: Fold) -> Targets:
    knowledge = fold.training_view
    return fold.ask(knowledge.dataset.snapshot(knowledge.cutoff), plan.labels)


def wanted(targets: Targets) -> list[list[int]]:
    return [ids.tolist() for ids in np.split(targets.relevant.item_ids, targets.relevant.indptr[1:-1])]


def pairs_of(targets: Targets) -> set[tuple[int, int]]:
    users = np.repeat(targets.user_ids, targets.relevant.counts).tolist()
    return set(zip(users, targets.relevant.item_ids.tolist(), strict=True))


def tastes(protocol: Protocol) -> Plan:
    return plan_of(dataset_of_tastes(), SplitConfig(protocol=protocol, core=1))


# What holds for all of them


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_fold_asks_for_what_its_models_or_its_history_know(protocol: Protocol) -> None:
    plan = tastes(protocol)
    for fold in plan.folds():
        known = fold.training_view.dataset.snapshot(fold.training_view.cutoff)
        pairs = set(
            zip(np.repeat(known.user_ids, np.diff(known.indptr)).tolist(), known.item_ids.tolist(), strict=True)
        )
        targets = asked(plan, fold)
        assert len(targets) > 0, fold.name
        for request, items in zip(targets.requests, wanted(targets), strict=True):
            assert not {(request.user_id, item) for item in items} & pairs, fold.name
            assert not set(items) & set(request.history.item_ids.tolist()), fold.name
            assert (request.history.timestamps <= request.as_of).all(), fold.name
            assert (np.diff(request.history.timestamps) >= 0).all(), fold.name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_choices_and_training_never_see_a_target_of_the_test(protocol: Protocol) -> None:
    plan = tastes(protocol)
    test = pairs_of(asked(plan, plan.test))
    for fold in (*plan.selection_train, plan.selection_validation, plan.validation, *plan.evaluation.training):
        assert not pairs_of(asked(plan, fold)) & test, fold.name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_ranker_is_selected_on_requests_it_does_not_learn_from(protocol: Protocol) -> None:
    plan = tastes(protocol)
    selection = asked(plan, plan.selection_validation)
    learned = [asked(plan, fold) for fold in plan.selection_train]
    if plan.split is None:
        assert not any(set(part.user_ids.tolist()) & set(selection.user_ids.tolist()) for part in learned)
    else:
        first = plan.split.validation.cutoff
        assert all(fold.training_view.cutoff < first for fold in plan.selection_train)
        assert {request.as_of for request in selection.requests} == {first}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_plan_is_the_same_every_time_and_its_names_are_unique(protocol: Protocol) -> None:
    plans = [tastes(protocol) for _ in range(2)]
    for one, other in zip(plans[0].folds(), plans[1].folds(), strict=True):
        assert (one.name, one.identity) == (other.name, other.identity)
        assert wanted(asked(plans[0], one)) == wanted(asked(plans[1], other))
    knowledge = {fold.training_view.name: fold.training_view.dataset.name for fold in plans[0].folds()}
    if plans[0].split is None:
        assert len(set(knowledge.values())) == len(knowledge)


def test_only_protocols_that_cut_time_can_be_served() -> None:
    served = [protocol for protocol in PROTOCOLS if tastes(protocol).production is not None]
    assert served == ["temporal", "time-to-split"]
    assert "leave-one-out has no bundle to serve" in str(tastes("leave-one-out").not_served())


def test_targets_that_a_protocol_has_not_are_refused() -> None:
    with pytest.raises(DataError, match=r"targets 'all': leave-one-out has last; choose one"):
        tastes("leave-one-out").check_kind("all")
    tastes("temporal").check_kind("last")


def test_users_are_drawn_with_the_seed() -> None:
    plan = tastes("leave-one-out")
    snapshot = plan.test.training_view.dataset.snapshot(plan.test.training_view.cutoff)
    drawn = [plan.test.ask(snapshot, "last", max_users=7, seed=seed).user_ids.tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 7


# leave-one-out

LOG = [
    (1, 1, 10, 5.0),
    (2, 1, 11, 3.0),
    (1, 2, 20, 4.0),
    (3, 9, 20, 4.0),
    (1, 5, 30, 1.0),
    (1, 4, 30, 2.0),
    (2, 6, 30, 4.0),
    (2, 7, 40, 4.0),
    (3, 8, 50, 4.0),
]


def test_leave_one_out_by_hand() -> None:
    """User 1's last two events share a second: the order of the file decides. User 3 has two events only."""
    plan = plan_of(world(LOG), SplitConfig(protocol="leave-one-out", selection_validation_share=0.5, moment="target"))
    assert plan.dataset.items.item_ids.tolist() == [1, 2, 4, 5, 6, 7]
    validation, test = asked(plan, plan.validation), asked(plan, plan.test)
    assert (validation.user_ids.tolist(), wanted(validation)) == ([1, 2], [[5], [6]])
    assert (test.user_ids.tolist(), wanted(test)) == ([1, 2], [[4], [7]])
    assert [request.as_of for request in validation.requests] == [30, 30]
    assert [request.as_of for request in test.requests] == [30, 40]
    assert [request.history.item_ids.tolist() for request in validation.requests] == [[1, 2], [1]]
    assert [request.history.item_ids.tolist() for request in test.requests] == [[1, 2, 5], [1, 6]]
    assert plan.validation.training_view.dataset.interactions.item_ids.tolist() == [1, 1, 2]
    assert plan.test.training_view.dataset.interactions.item_ids.tolist() == [1, 1, 2, 5, 6]
    assert test.values is not None
    assert test.values.tolist() == [2.0, 4.0]
    assert test.warm.all()


def test_leave_one_out_asks_at_the_moment_of_the_last_known_event() -> None:
    """By default: models that read no time have no other."""
    plan = plan_of(world(LOG), SplitConfig(protocol="leave-one-out", selection_validation_share=0.5))
    assert [request.as_of for request in asked(plan, plan.validation).requests] == [20, 11]
    assert [request.as_of for request in asked(plan, plan.test).requests] == [30, 30]
    as_served = plan_of(
        world(LOG), SplitConfig(protocol="leave-one-out", selection_validation_share=0.5, moment="target")
    )
    assert plan.test.identity != as_served.test.identity
    assert [fold.training_view.dataset.name for fold in plan.folds()] == [
        fold.training_view.dataset.name for fold in as_served.folds()
    ]


def test_places_from_the_end_count_later_events_of_the_user() -> None:
    users = np.asarray([7, 3, 7, 7, 3, 9])
    assert from_the_end(users).tolist() == [2, 1, 1, 0, 0, 0]
    assert from_the_end(users, counts=True).tolist() == [3, 2, 3, 3, 2, 1]


def test_a_log_without_three_events_of_anybody_is_refused() -> None:
    with pytest.raises(DataError, match="no user has 3 events"):
        plan_of(world(LOG[3:5]), SplitConfig(protocol="leave-one-out"))


# random-60-20-20


def test_random_shares_are_of_all_events_and_only_liked_ones_should_be_found() -> None:
    dataset = dataset_of_tastes()
    plan = plan_of(dataset, SplitConfig(protocol="random-60-20-20"))
    n = len(dataset.interactions)
    assert len(plan.validation.training_view.dataset.interactions) == round(0.6 * n)
    assert len(plan.test.training_view.dataset.interactions) == round(0.8 * n)
    test = asked(plan, plan.test)
    assert test.values is not None
    assert (test.values >= RELEVANT_VALUE).all()
    events = dataset.interactions
    pairs = set(zip(events.user_ids.tolist(), events.item_ids.tolist(), strict=True))
    fitted = plan.test.training_view.dataset.interactions
    known = set(zip(fitted.user_ids.tolist(), fitted.item_ids.tolist(), strict=True))
    liked_pairs = {
        pair
        for *pair, value in zip(events.user_ids.tolist(), events.item_ids.tolist(), events.values.tolist(), strict=True)
        for pair in [tuple(pair)]
        if value >= RELEVANT_VALUE
    }
    found = pairs_of(test)
    assert found == (pairs - known) & liked_pairs
    other = plan_of(dataset, SplitConfig(protocol="random-60-20-20", seed=2))
    assert wanted(asked(other, other.test)) != wanted(test)


def test_a_request_of_a_random_split_is_of_the_moment_of_its_last_known_event() -> None:
    test = asked(plan := tastes("random-60-20-20"), plan.test)
    assert all(request.as_of == request.history.timestamps[-1] for request in test.requests if len(request.history))


def test_a_log_without_ratings_has_no_liked_events() -> None:
    with pytest.raises(DataError, match="needs ratings on a scale up to 5"):
        plan_of(world([(user, item, 5, 1.0) for user, item, _, _ in LOG]), SplitConfig(protocol="random-60-20-20"))


# strong-generalisation


def slow_split(dataset: Dataset) -> tuple[set[int], set[int], dict[int, set[int]]]:
    """The notebook of Liang et al., line by line, for a tenth of held-out users: training and test users, targets."""
    events = dataset.interactions
    rows = [
        (user, item)
        for user, item, value in zip(
            events.user_ids.tolist(), events.item_ids.tolist(), events.values.tolist(), strict=True
        )
        if value > 3.5
    ]
    counts = {user: sum(1 for other, _ in rows if other == user) for user, _ in rows}
    rows = [(user, item) for user, item in rows if counts[user] >= 5]
    unique = np.asarray(sorted({user for user, _ in rows}))
    np.random.seed(98765)  # noqa: NPY002 - this is the published procedure
    unique = unique[np.random.permutation(unique.size)]  # noqa: NPY002
    n = int(0.1 * len(unique))
    training, test = set(unique[: len(unique) - 2 * n].tolist()), set(unique[len(unique) - n :].tolist())
    known = {item for user, item in rows if user in training}
    targets: dict[int, set[int]] = {}
    np.random.seed(98765)  # noqa: NPY002
    for user in sorted(test):
        group = sorted(item for other, item in rows if other == user and item in known)
        if len(group) >= 5:
            places = np.random.choice(len(group), size=int(0.2 * len(group)), replace=False)  # noqa: NPY002
            targets[user] = {group[place] for place in places}
    return training, test, targets


def rated_tastes() -> Dataset:
    """The tastes with ratings of 4 for most events, so that enough users are left."""
    dataset = dataset_of_tastes()
    events = dataset.interactions
    values = np.where(events.values > 1, 4, 3).astype(np.float32)
    return Dataset(
        "rated", Interactions(events.user_ids, events.item_ids, events.timestamps, events.types, values), dataset.items
    )


def test_strong_generalisation_is_the_published_procedure() -> None:
    dataset = rated_tastes()
    training, test, targets = slow_split(dataset)
    plan = plan_of(dataset, SplitConfig(protocol="strong-generalisation"))
    found = asked(plan, plan.test)
    assert len(targets) > 10
    assert set(np.unique(plan.test.training_view.dataset.interactions.user_ids).tolist()) == training
    assert {user: set(items) for user, items in zip(found.user_ids.tolist(), wanted(found), strict=True)} == targets
    assert set(found.user_ids.tolist()) <= test
    assert found.warm.all()


def test_the_labels_of_strong_generalisation_are_of_training_users() -> None:
    plan = plan_of(rated_tastes(), SplitConfig(protocol="strong-generalisation"))
    (labels,) = plan.evaluation.training
    everything = plan.test.training_view.dataset.interactions
    assert set(asked(plan, labels).user_ids.tolist()) <= set(everything.user_ids.tolist())
    assert len(labels.training_view.dataset.interactions) + asked(plan, labels).relevant.counts.sum() == len(everything)


def test_strangers_share_nobody_and_hold_out_a_tenth() -> None:
    parts = users_of(np.arange(1_000))
    assert [len(part) for part in parts] == [800, 100, 100]
    assert len(np.unique(np.concatenate(parts))) == 1_000
    assert [len(part) for part in users_of(np.arange(150_000))] == [130_000, 10_000, 10_000]


def test_users_with_few_events_keep_them_all() -> None:
    events = liked(rated_tastes().interactions)
    held_out = fold_in(events.take(slice(0, 40)), np.unique(events.user_ids))
    users, counts = np.unique(events.take(slice(0, 40)).user_ids, return_counts=True)
    assert set(held_out.held.user_ids.tolist()) <= set(users[counts >= 5].tolist())


def test_too_few_users_are_refused() -> None:
    with pytest.raises(DataError, match="0 users with 5 ratings"):
        plan_of(world(LOG), SplitConfig(protocol="strong-generalisation"))


# The real ones


def ingested(folder: Path, tables: Path) -> Dataset:
    ingest(open_dataset("ml-1m", folder), tables)
    return Dataset.load("ml-1m", tables)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    if not (REAL / "ml-1m-timed").is_dir():
        pytest.skip("../shared/data/ml-1m-timed is not here")
    return ingested(REAL / "ml-1m-timed", tmp_path_factory.mktemp("timed") / "tables")


@pytest.mark.realdata
def test_leave_one_out_on_ml_1m_timed(timed: Dataset) -> None:
    plan = plan_of(timed, SplitConfig(protocol="leave-one-out"))
    assert len(plan.dataset.interactions) == 643_995
    fitted, refitted = (fold.training_view.dataset.interactions for fold in (plan.validation, plan.test))
    assert (len(fitted), len(refitted)) == (643_995 - 2 * 3_898, 643_995 - 3_898)
    test = asked(plan, plan.test)
    assert (len(test), int(test.relevant.counts.sum())) == (3_898, 3_898)
    assert int(np.isin(test.relevant.item_ids, refitted.item_ids).sum()) == 3_896
    assert len(asked(plan, plan.selection_validation)) == round(0.2 * 3_898)


@pytest.mark.realdata
def test_strong_generalisation_and_random_shares_on_ml_1m_timed(timed: Dataset) -> None:
    strong = plan_of(timed, SplitConfig(protocol="strong-generalisation"))
    users = len(np.unique(liked(timed.interactions).user_ids))
    assert len(np.unique(strong.test.training_view.dataset.interactions.user_ids)) == users - 2 * int(0.1 * users)
    shares = plan_of(timed, SplitConfig(protocol="random-60-20-20"))
    assert len(shares.validation.training_view.dataset.interactions) == round(0.6 * 643_995)
    assert len(shares.test.training_view.dataset.interactions) == round(0.8 * 643_995)
