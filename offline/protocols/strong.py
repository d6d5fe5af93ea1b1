"""strong-generalisation: users of validation and test are strangers to the models; their fold-in items are the request.

Liang, Krishnan, Hoffman, Jebara, "Variational Autoencoders for Collaborative Filtering", WWW 2018, followed as their
published notebook does it for ML-20M: ratings above 3.5, users with at least 5 of them, a permutation of the ascending
user ids by `np.random.seed(98765)`, the last 10,000 test and the 10,000 before them validate, items that training
users took, and per held-out user (ascending, the seed set again for each of the two groups) int(.2 n) targets drawn by
`np.random.choice` from the user's items in file order. ML-20M's file is in order of (user, item); so are ours.

A data set with fewer than 100,000 users holds out a tenth of them for validation and a tenth for test instead.
Users without a target are left out of the figures. Recall is normalised: hits / min(K, targets).
"""

from __future__ import annotations

import numpy as np

from offline.dataset.interactions import Dataset, Interactions
from offline.dataset.splits import SplitConfig, keep
from offline.protocols.folds import BundleFit, Fold, Plan, TrainingView, known_as
from offline.protocols.held_out import HeldOut
from offline.protocols.targets import positive_events
from recsys.domain import Ids
from recsys.errors import DataError

MIN_VALUE = 3.5
"""Ratings above it count; events without a value do, too."""
MIN_EVENTS = 5
SEED = 98_765
HELD_OUT_USERS = 10_000
MAX_HELD_OUT_SHARE = 0.1
TARGET_SHARE = 0.2


def plan_strong(dataset: Dataset, config: SplitConfig) -> Plan:
    """Raises DataError where there are too few users to hold some out."""
    events = liked(dataset.interactions)
    training_users, validation_users, test_users = users_of(events.user_ids)
    if not len(validation_users):
        raise DataError(
            f"{dataset.name}: {len(training_users)} users with {MIN_EVENTS} ratings above {MIN_VALUE:g}; "
            f"{config.protocol} needs at least {round(1 / MAX_HELD_OUT_SHARE)}"
        )
    known = events.take(np.isin(events.user_ids, training_users))
    events = events.take(np.isin(events.item_ids, known.item_ids))
    kept = keep(dataset, events)
    end = int(events.timestamps[-1])
    training, validation, test = (fold_in(events, users) for users in (training_users, validation_users, test_users))
    early = TrainingView("fold-in", known_as(f"{config.protocol}, fold-in", kept, training.known), end)
    whole = TrainingView("training", known_as(config.protocol, kept, known), end, early)

    def fold(name: str, view: TrainingView, held_out: HeldOut) -> Fold:
        return Fold(name, view, held_out, (config.protocol, name))

    labelled = (fold("training", early, training),)
    validation_fold = fold("validation", whole, validation)
    return Plan(
        config.protocol,
        kept,
        selection_train=labelled,
        selection_validation=validation_fold,
        validation=validation_fold,
        evaluation=BundleFit(whole, labelled),
        test=fold("test", whole, test),
        kinds=("all",),
        labels="all",
    )


def liked(events: Interactions) -> Interactions:
    """Positive events above the least value, of users who have enough of them."""
    events = positive_events(events)
    events = events.take(np.isnan(events.values) | (events.values > MIN_VALUE))
    _, rows, counts = np.unique(events.user_ids, return_inverse=True, return_counts=True)
    return events.take(counts[rows] >= MIN_EVENTS)


def users_of(user_ids: Ids) -> tuple[Ids, Ids, Ids]:
    """Users that train, validate and test."""
    users = np.unique(user_ids)
    shuffled = users[_generator().permutation(len(users))]
    n = min(HELD_OUT_USERS, int(MAX_HELD_OUT_SHARE * len(users)))
    first, second = len(users) - 2 * n, len(users) - n
    return shuffled[:first], shuffled[first:second], shuffled[second:]


def fold_in(events: Interactions, user_ids: Ids) -> HeldOut:
    """The events of these users, a fifth of each held out; users with fewer than five keep all as fold-in."""
    own = events.take(np.isin(events.user_ids, user_ids))
    held = np.zeros(len(own), np.bool_)
    order = np.lexsort((own.item_ids, own.user_ids))
    _, starts = np.unique(own.user_ids[order], return_index=True)
    random = _generator()
    for positions in np.split(order, starts[1:]):
        if len(positions) >= MIN_EVENTS:
            n = int(TARGET_SHARE * len(positions))
            held[positions[random.choice(len(positions), size=n, replace=False)]] = True
    return HeldOut(own.take(~held), own.take(held), "history")


def _generator() -> np.random.RandomState:
    """The generator behind `np.random.seed`, without its global state."""
    return np.random.RandomState(SEED)
