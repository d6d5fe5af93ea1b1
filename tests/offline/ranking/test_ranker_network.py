"""DIN + DCN-V2 + MMoE: it learns tastes, each part does what it should, and ONNX scores like PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from offline.ranking.rankers.graph import PARITY
from offline.ranking.rankers.network import ranker, training
from offline.ranking.rankers.network.config import NetworkConfig
from offline.ranking.rankers.network.export import ServedNetwork, export_network
from offline.ranking.rankers.network.inputs import WindowRequests, all_batches, training_batches
from offline.ranking.rankers.network.model import KNOTS, TASKS, Attention, FeatureScaling, HistoryEncoder, Scales
from offline.ranking.rankers.network.training import NetworkValidation, Training, listwise
from offline.ranking.rankers.ranking_dataset import RankingDataset, blended_quality, quality, warm_part
from rank_server.scoring import GRAPH_FILE, MENU
from recsys.errors import ContractBroken, DataError
from recsys.features import MISSING
from tests.offline.ranking import ranking_datasets
from tests.offline.ranking.ranking_datasets import RankingData

CONFIG = NetworkConfig(
    embedding_size=4, attention_size=4, history_limit=8, cross_rank=4, hidden=8, epochs=3, experts=2, batch_size=16,
    candidates=16, threads=1, learning_rate=0.01,
)  # fmt: skip
PARTS = {
    "whole": {},
    "no attention": {"attention": False},
    "no crosses": {"crosses": False},
    "no experts": {"experts": 1},
}


@pytest.fixture(scope="module")
def data() -> RankingData:
    return ranking_datasets.ranking_data()


def last(dataset: RankingDataset) -> RankingDataset:
    return replace(dataset, windows=dataset.windows[-1:])


def test_the_network_learns_what_the_blended_order_does_not_say(data: RankingData, tmp_path: Path) -> None:
    trial = ranker.choose_epochs(last(data.dataset), data.held_out, CONFIG, folder=tmp_path)
    assert set(trial.settings) == {"epochs", *TASKS}
    assert list(trial.curve) == [str(epoch + 1) for epoch in range(len(trial.curve))]
    assert quality(data.held_out.samples, trial.scores) > blended_quality(data.held_out.samples)
    assert list(tmp_path.iterdir()) == [], "no checkpoint is left"


@pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS)
def test_the_exported_graph_serves_with_and_without_each_part(
    data: RankingData, tmp_path: Path, changes: dict[str, object]
) -> None:
    config = CONFIG.model_copy(update=changes)
    settings: dict[str, int | float] = {"epochs": 1, "interact": 0.75, "like": 0.5, "rating": 0.25}
    (tmp_path / GRAPH_FILE).parent.mkdir(parents=True)
    ranker.train(last(data.dataset), tmp_path / GRAPH_FILE, config, settings=settings)
    trained = Training(last(data.dataset), config).fit(1)
    requests = WindowRequests(data.held_out, data.dataset.item_ids)
    expected = training.predict(trained.network, requests) @ np.asarray([1.0, 0.75, 0.5, 0.25], np.float32)
    found = np.concatenate(ranking_datasets.served(tmp_path).score(ranking_datasets.queries()))
    assert np.abs(found - expected).max() < 1e-3, "the features of samples and of the server differ by rounding"
    inputs = [node.name for node in onnxruntime.InferenceSession(str(tmp_path / GRAPH_FILE)).get_inputs()]
    assert set(inputs) == set(MENU)


def test_the_exported_attention_works_out_its_linear_parts_per_candidate_and_per_event(
    data: RankingData, tmp_path: Path
) -> None:
    """Not per pair of them: what comes out of each matrix product has one row per candidate, or one per event."""
    config = CONFIG.model_copy(update={"attention_size": 5, "history_limit": 6})
    trained = Training(last(data.dataset), config).fit(1)
    batch = next(all_batches(WindowRequests(data.held_out, data.dataset.item_ids), 3))
    export_network(ServedNetwork(trained.network, (1.0, 1.0, 0.0, 0.0)), tmp_path / "ranker.onnx", [batch])
    model = onnx.load(tmp_path / "ranker.onnx")
    weights = {one.name for one in model.graph.initializer if sorted(one.dims) == [config.embedding_size, 2 * 5]}
    products = [node.output[0] for node in model.graph.node if weights.intersection(node.input)]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in products)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {name: part.numpy() for name, part in zip(MENU, batch.menu, strict=True)}
    rows = [int(np.prod(found.shape[:-1])) for found in session.run(products, feed)]
    assert sorted(rows) == [3 * config.history_limit, len(batch.menu[0])]


def test_a_graph_that_scores_otherwise_is_an_error(
    data: RankingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Training(last(data.dataset), CONFIG).fit(1)
    served = ServedNetwork(trained.network, (1.0, 1.0, 0.0, 0.0))
    probe = next(all_batches(WindowRequests(data.held_out, data.dataset.item_ids), 3))
    assert export_network(served, tmp_path / "honest.onnx", [probe]) <= PARITY
    monkeypatch.setattr("offline.ranking.rankers.network.export.export_graph", lambda *_, **__: None)
    served.weights *= 1.01
    with pytest.raises(ContractBroken, match="differ from PyTorch"):
        export_network(served, tmp_path / "honest.onnx", [probe])


def test_validation_looks_at_warm_requests(data: RankingData) -> None:
    samples = replace(data.held_out.samples, warm=np.arange(len(data.held_out.samples.groups)) % 2 == 0)
    part = warm_part(replace(data.held_out, samples=samples)).samples
    assert part.groups.tolist() == samples.groups[::2].tolist()
    rng = np.random.default_rng(0)
    scores = rng.random(len(samples.labels))
    assert quality(part, scores[np.repeat(samples.warm, samples.groups)]) == quality(samples, scores)
    second = slice(samples.histories.indptr[2], samples.histories.indptr[3])
    own = slice(part.histories.indptr[1], part.histories.indptr[2])
    assert part.histories.ages[own].tolist() == samples.histories.ages[second].tolist()


def test_a_killed_training_continues_and_ends_in_the_same_network(data: RankingData, tmp_path: Path) -> None:
    def metric(outputs: np.ndarray) -> float:
        return quality(data.held_out.samples, (outputs[:, 0] + outputs[:, 1]).astype(np.float64))

    validation = NetworkValidation(WindowRequests(data.held_out, data.dataset.item_ids), metric)
    whole = Training(last(data.dataset), CONFIG).fit(2, validation=validation)

    class Killed(Exception):
        pass

    looks: list[float] = []

    def killing(outputs: np.ndarray) -> float:
        if len(looks) == 1:
            raise Killed
        looks.append(metric(outputs))
        return looks[-1]

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        Training(last(data.dataset), CONFIG).fit(
            3, validation=replace(validation, metric=killing), checkpoint=checkpoint
        )
    resumed = Training(last(data.dataset), CONFIG).fit(2, validation=validation, checkpoint=checkpoint)
    assert resumed.curve == whole.curve
    assert len(resumed.losses) == 2
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    other = Training(last(data.dataset), CONFIG.model_copy(update={"seed": 2}))
    assert len(other.fit(1, checkpoint=checkpoint).losses) == 1, "a checkpoint of another seed is not continued"


def test_training_stops_when_validation_does_not_improve(data: RankingData) -> None:
    falling = iter([0.5, 0.6, 0.4, 0.3, 0.2, 0.1])
    requests = WindowRequests(data.held_out, data.dataset.item_ids)
    config = CONFIG.model_copy(update={"patience": 2, "batch_size": 64})
    trained = Training(last(data.dataset), config).fit(
        6, validation=NetworkValidation(requests, lambda _: next(falling))
    )
    assert trained.curve == (0.5, 0.6, 0.4, 0.3)
    assert trained.epochs == 2


def test_nothing_to_learn_from_is_an_error(data: RankingData) -> None:
    window = data.dataset.windows[-1]
    nothing = replace(window, samples=replace(window.samples, labels=np.zeros_like(window.samples.labels)))
    with pytest.raises(DataError, match="nothing to learn from"):
        Training(replace(data.dataset, windows=(nothing,)), CONFIG)


def test_rows_of_an_earlier_catalogue_become_those_of_the_served_one(data: RankingData) -> None:
    window = data.dataset.windows[0]
    served = np.concatenate([[-5], window.item_ids])
    batch = WindowRequests(window, served).batch(np.asarray([0, 2]))
    n = window.samples.groups[[0, 2]]
    assert batch.menu[2].tolist() == [0] * n[0] + [1] * n[1]
    first = window.samples.item_rows[: n[0]]
    assert served[batch.menu[1][: n[0]].numpy()].tolist() == window.item_ids[first].tolist()


def test_histories_are_left_aligned(data: RankingData) -> None:
    histories = data.held_out.samples.histories
    lengths = np.diff(histories.indptr)
    chosen = np.asarray([int(lengths.argmin()), int(lengths.argmax())])
    menu = WindowRequests(data.held_out, data.held_out.item_ids).batch(chosen).menu
    assert menu[6].sum(dim=1).tolist() == lengths[chosen].tolist()
    longest = slice(histories.indptr[chosen[1]], histories.indptr[chosen[1] + 1])
    assert menu[3][1].tolist() == histories.rows[longest].tolist()
    assert menu[5][1].tolist() == pytest.approx(histories.ages[longest].tolist())


def test_training_shows_relevant_candidates_and_compares_with_all(data: RankingData) -> None:
    requests = WindowRequests(data.dataset.windows[-1], data.dataset.item_ids)
    chosen = np.flatnonzero(data.dataset.training_requests()[-1])
    batches = list(training_batches([requests], [chosen], CONFIG, np.random.default_rng(1)))
    assert sum(batch.menu[3].shape[0] for batch in batches) == len(chosen)
    for batch in batches:
        shown = np.bincount(batch.menu[2][batch.shown].numpy())
        assert shown.max() <= CONFIG.candidates
        assert len(batch.labels) == len(batch.shown) < len(batch.menu[1])
        assert batch.labels.sum() > 0


def test_features_are_relative_to_the_request() -> None:
    """A shift of a whole request changes its mean only; a feature that is the same for all says 0."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 2)).astype(np.float32)
    scaling = FeatureScaling(Scales.of(features, np.asarray([1.0, 5.0], np.float32)))
    assert scaling.lower.shape == (2, KNOTS - 1)
    one = torch.tensor([[0.1, 3.0], [0.2, 3.0], [0.3, 3.0], [MISSING, 3.0]])
    index, member = torch.zeros(4, dtype=torch.int64), torch.full((1, 4), 0.25)
    scaled = scaling(one, member, index)
    assert scaled.shape == (4, 6)
    assert scaled[:3, 0].diff().gt(0).all()
    assert scaled[:, 1].tolist() == pytest.approx([0.0] * 4, abs=1e-5)
    assert torch.isfinite(scaled).all()
    assert scaled[:, :4].mean(dim=0).tolist() == pytest.approx([0.0] * 4, abs=1e-5)


def test_only_the_latest_events_are_read() -> None:
    histories = HistoryEncoder(CONFIG.model_copy(update={"history_limit": 2}), (3.0, 1.0))
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    present, rows = histories.latest(mask, torch.tensor([[7, 8, 9], [5, 0, 0], [0, 0, 0]]))
    assert rows[0].tolist() == [8, 9]
    assert rows[1][0] == 5
    assert present.tolist() == [[1, 1], [1, 0], [0, 0]]


def test_candidates_attend_to_what_is_like_them_and_to_nothing_where_there_is_nothing() -> None:
    attention = Attention(CONFIG)
    with torch.no_grad():
        for linear in (attention.candidate, attention.event):
            linear.weight.zero_()
            linear.bias.zero_()
            linear.weight[4:] = 5 * torch.eye(4)
    events = torch.eye(4)[[0, 1]].unsqueeze(0).repeat(2, 1, 1)
    present = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    found = attention(torch.eye(4)[[0, 1, 1]], events, present, torch.tensor([0, 0, 1]))
    assert found[0, 0] > 0.99
    assert found[1, 1] > 0.99
    assert found[2].tolist() == [0.0] * 4


def test_the_listwise_loss_is_that_of_a_softmax_per_request() -> None:
    logits, labels = torch.tensor([0.0, 1.0, 2.0, 0.5]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    index = torch.tensor([0, 0, 0, 1])
    expected = -torch.log_softmax(logits[:3], dim=0)[1:].mean() / 2
    assert float(listwise(logits, labels, index, 2)) == pytest.approx(float(expected))


def test_without_ratings_the_other_tasks_teach_nothing(data: RankingData) -> None:
    """Ratings of NaN: the loss stays finite."""
    window = data.dataset.windows[-1]
    unrated = replace(window, samples=replace(window.samples, ratings=np.full_like(window.samples.ratings, np.nan)))
    trained = Training(replace(data.dataset, windows=(unrated,)), CONFIG).fit(1)
    assert np.isfinite(trained.losses[0])
