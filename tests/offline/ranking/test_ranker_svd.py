"""The rating model finds factors that are there, folds users in, and serves as a graph that predicts alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offline.ranking.rankers.svd import RatingConfig, train_rating_model
from offline.ranking.rankers.svd_export import export_rating, scores_of
from rank_server.scoring import GRAPH_FILE
from recsys.errors import BundleMismatch
from recsys.features.rating import BIASES_FILE, FACTS_FILE, RatingModel
from tests.offline.ranking import ranking_datasets
from tests.offline.ranking.ranking_datasets import DATASET, T1

CONFIG = RatingConfig(factors=2, reg=0.02, bias_reg=1.0, max_sweeps=8)


def rated_snapshot(noise: float = 0.1):
    """The events of the toy data, rated by a bias of the item and the product of two hidden numbers."""
    snapshot = DATASET.snapshot(T1)
    rng = np.random.default_rng(5)
    n_items = len(snapshot.catalogue)
    biases, vectors, users = (
        rng.normal(0, 0.5, n_items),
        rng.normal(size=n_items),
        rng.normal(size=len(snapshot.user_ids)),
    )
    rows = snapshot.catalogue.rows(snapshot.item_ids)
    owners = np.repeat(np.arange(len(users)), np.diff(snapshot.indptr))
    values = 3.0 + biases[rows] + users[owners] * vectors[rows] + rng.normal(0, noise, len(rows))
    return replace(snapshot, values=values.astype(np.float32)), vectors, biases


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rating")
    snapshot, *_ = rated_snapshot()
    error = train_rating_model(snapshot, folder, CONFIG)
    facts = json.loads((folder / FACTS_FILE).read_text())
    assert error == min(facts["rmse"])
    assert facts["sweeps"] == int(np.argmin(facts["rmse"])) + 1
    return folder


def test_held_out_ratings_are_predicted_better_than_by_their_mean(trained: Path) -> None:
    facts = json.loads((trained / FACTS_FILE).read_text())
    assert min(facts["rmse"]) < 0.8 * facts["rmse_of_mean"]


def test_a_user_nobody_trained_on_is_folded_in(trained: Path) -> None:
    """A user whose hidden number is 1.5 rates some items; the model then tells the others in order of the truth."""
    model = RatingModel.open(trained)
    _, vectors, biases = rated_snapshot()
    truth = 3.0 + biases + 1.5 * vectors
    known, asked = np.arange(0, len(truth), 2), np.arange(1, len(truth), 2)
    predicted = model.predict(known, truth[known].astype(np.float32), asked)
    assert predicted.dtype == np.float32
    assert np.corrcoef(predicted, truth[asked])[0, 1] > 0.7
    nobody = model.predict(np.empty(0, np.int64), np.empty(0, np.float32), asked)
    assert nobody.tolist() == pytest.approx((model.mean + model.spread * model.biases[asked]).tolist())


def test_events_without_a_rating_say_nothing(trained: Path) -> None:
    model, asked = RatingModel.open(trained), np.asarray([1, 2, 3])
    rows, values = np.asarray([5, 6, 7]), np.asarray([4.0, np.nan, 2.0], np.float32)
    rated = np.isfinite(values)
    assert model.predict(rows, values, asked).tolist() == model.predict(rows[rated], values[rated], asked).tolist()


def test_a_world_without_ratings_predicts_one_number(tmp_path: Path) -> None:
    snapshot = DATASET.snapshot(T1)
    unrated = replace(snapshot, values=np.full_like(snapshot.values, np.nan))
    assert np.isnan(train_rating_model(unrated, tmp_path, CONFIG))
    model = RatingModel.open(tmp_path)
    assert model.predict(np.asarray([1]), np.asarray([2.0], np.float32), np.asarray([0, 3])).tolist() == [0.0, 0.0]
    assert export_rating(model, tmp_path / GRAPH_FILE) == 0.0


def test_training_twice_gives_the_same_model(trained: Path, tmp_path: Path) -> None:
    train_rating_model(rated_snapshot()[0], tmp_path, CONFIG)
    assert (tmp_path / BIASES_FILE).read_bytes() == (trained / BIASES_FILE).read_bytes()


def test_the_graph_serves_what_the_model_predicts(trained: Path, tmp_path: Path) -> None:
    model = RatingModel.open(trained)
    assert export_rating(model, tmp_path / GRAPH_FILE) < 1e-4
    ranker = ranking_datasets.served(tmp_path)
    for query, found in zip(
        ranking_datasets.queries()[:40], ranker.score(ranking_datasets.queries()[:40]), strict=True
    ):
        known = ranker.catalogue.rows(query.history.item_ids)
        asked = ranker.catalogue.rows(query.candidates.item_ids)
        assert found == pytest.approx(model.predict(known, query.history.values, asked), abs=1e-3)


def test_scores_of_samples_are_predictions(trained: Path) -> None:
    model, held_out = RatingModel.open(trained), ranking_datasets.ranking_data().held_out
    scores = scores_of(model, held_out.samples)
    assert len(scores) == len(held_out.samples.labels)
    first, histories = held_out.samples.groups[0], held_out.samples.histories
    events = slice(0, histories.indptr[1])
    expected = model.predict(histories.rows[events], histories.values[events], held_out.samples.item_rows[:first])
    assert scores[:first] == pytest.approx(expected)


def test_arrays_that_do_not_belong_together_are_refused(trained: Path, tmp_path: Path) -> None:
    model = RatingModel.open(trained)
    replace(model, biases=model.biases[:-1]).save(tmp_path)
    with pytest.raises(BundleMismatch, match="publish again"):
        RatingModel.open(tmp_path)
