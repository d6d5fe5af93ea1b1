"""Parts of the two-tower training with known answers: loss, negatives, trend, examples, export checks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from offline.recall.two_tower.batches import batches, cut_at, draw_epoch, gather_histories
from offline.recall.two_tower.config import PooledConfig, TwoTowerConfig
from offline.recall.two_tower.corpus import Corpus
from offline.recall.two_tower.export import (
    ServedUserTower,
    check_parity,
    export_tower,
)
from offline.recall.two_tower.loss import NegativeSampler, sampled_softmax
from offline.recall.two_tower.model import Content, Histories
from offline.recall.two_tower.training import new_model
from offline.recall.two_tower.trend import measure_trend
from recsys.errors import ContractBroken
from tests.offline.recall.two_tower.towers import varied
from tests.recall_server.toy import DAY, NOW, Event, snapshot_of

CONFIG = TwoTowerConfig(
    threads=1, device="cpu", pooled=PooledConfig(embedding_size=8, heads=2, hidden=16, moments=8, targets=3)
)


def plain(scores: list[list[float]], targets: list[list[int]], *, seen: list[list[bool]] | None = None) -> float:
    """The loss without correction, every target of weight 1."""
    values = torch.tensor(scores)
    mask = torch.zeros(values.shape, dtype=torch.bool) if seen is None else torch.tensor(seen)
    at = torch.tensor(targets)
    return sampled_softmax(values, torch.zeros(values.shape[1]), at, torch.ones(at.shape), mask).item()


def test_the_loss_is_cross_entropy_over_all_items() -> None:
    scores = torch.tensor([[1.0, -2.0, 0.5]])
    expected = torch.nn.functional.cross_entropy(scores, torch.tensor([2])).item()
    assert plain(scores.tolist(), [[2]]) == pytest.approx(expected, rel=1e-6)


def test_other_targets_and_seen_items_are_no_negatives() -> None:
    assert plain([[0.0, 9.0, 0.0]], [[0, 1]]) == pytest.approx((np.log(2) + np.log1p(np.exp(-9))) / 2, rel=1e-5)
    assert plain([[0.0, 9.0, 0.0]], [[0]], seen=[[False, True, False]]) == pytest.approx(np.log(2), rel=1e-6)


def test_a_target_that_was_seen_counts_nothing_and_nothing_left_is_finite() -> None:
    assert plain([[0.0, 9.0, 0.0]], [[1]], seen=[[False, True, False]]) == 0.0
    scores = torch.zeros(1, 2, requires_grad=True)
    loss = sampled_softmax(scores, torch.zeros(2), torch.tensor([[0]]), torch.ones(1, 1), torch.tensor([[False, True]]))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.isfinite(scores.grad).all()


def test_the_corrected_sample_estimates_the_sum_over_all_items_without_bias() -> None:
    rng = np.random.default_rng(0)
    n_items, in_batch = 50, 40
    share = rng.dirichlet(np.full(n_items, 0.3))
    weights = np.exp(rng.normal(size=n_items))
    sampler = NegativeSampler(np.arange(n_items), share, uniform=20)
    estimates = []
    for _ in range(4_000):
        sample = sampler.sample(rng.choice(n_items, in_batch, p=share), rng)
        assert len(np.unique(sample.rows)) == len(sample.rows)
        estimates.append((weights[sample.rows] * np.exp(sample.correction)).sum())
    assert np.mean(estimates) == pytest.approx(weights.sum(), rel=0.01)
    assert np.std(estimates) > 0


def test_as_many_negatives_as_items_means_all_known_items_exactly() -> None:
    known = np.asarray([1, 3, 4])
    sample = NegativeSampler(known, np.zeros(6), uniform=3).sample(np.asarray([3, 3]), np.random.default_rng(0))
    assert_array_equal(sample.rows, known)
    assert_array_equal(sample.correction, np.zeros(3))
    assert sample.positions(np.asarray([[4, 0], [1, 5]]), 6).tolist() == [[2, -1], [0, -1]]


def test_trend_counts_decay_and_know_nothing_later() -> None:
    events: list[Event] = [(1, 1, 20.0), (2, 1, 10.0), (3, 2, 10.0), (4, 2, 0.0)]
    snapshot = snapshot_of(events, {1: "", 2: "", 3: ""})
    trend = measure_trend(snapshot.events, 3, half_lives_days=(10.0,), n_moments=4, cutoff=NOW)
    days = ((NOW - trend.moments) / DAY).round(3).tolist()
    assert days[-1] == 0
    assert days[0] == pytest.approx(20, abs=1e-3)
    assert_array_equal(trend.features[0], np.zeros((3, 1)))
    counts = np.asarray([0.25 + 0.5, 0.5 + 1.0, 0.0])
    assert_allclose(trend.features[-1][:, 0], np.log((counts + 1) / (counts.mean() + 1)), rtol=1e-5)
    at_ten = days.index(10.0)
    counts = np.asarray([0.5 + 1.0, 1.0, 0.0])
    assert_allclose(trend.features[at_ten][:, 0], np.log((counts + 1) / (counts.mean() + 1)), rtol=1e-5)
    assert trend.before(np.asarray([NOW - 10 * DAY]))[0] == at_ten - 1
    assert trend.before(np.asarray([NOW - 10 * DAY + 1]))[0] == at_ten


def walks(users: int = 30, length: int = 12) -> Corpus:
    """User u takes item (u + day) mod 15 on each day, weights and values telling the day."""
    events: list[Event] = [
        (user, (user + day) % 15 + 1, float(length - day) + user / 100, float(day))
        for user in range(users)
        for day in range(length - user % 5)
    ]
    return Corpus.of(snapshot_of(events, dict.fromkeys(range(1, 16), "")).events, 15, NOW, CONFIG)


def test_examples_know_what_was_before_and_are_asked_what_came_after() -> None:
    corpus = walks()
    events, epoch = corpus.events, draw_epoch(corpus.events, corpus.trend, CONFIG, np.random.default_rng(1))
    examples = epoch.examples
    assert len(examples) == CONFIG.pooled.min_examples
    assert (examples.cuts < examples.ends).all()
    assert (examples.as_of <= events.timestamps[examples.cuts]).all()
    warm = examples.starts < examples.cuts
    assert 0.8 < warm.mean() < 1
    assert (events.timestamps[examples.cuts[warm] - 1] <= examples.as_of[warm]).all()
    assert_array_equal(events.user_rows[examples.cuts], events.user_rows[examples.ends - 1])
    for at in range(0, len(examples), 97):
        later = events.item_rows[examples.cuts[at] : examples.ends[at]]
        chosen = epoch.targets[at][epoch.target_weights[at] > 0]
        assert set(chosen.tolist()) <= set(later.tolist())
        assert len(chosen) == min(len(later), CONFIG.pooled.targets)
    assert (corpus.trend.moments[corpus.trend.before(examples.as_of)] < examples.as_of).all()


def test_cuts_at_moments_are_where_the_moment_is() -> None:
    corpus = walks()
    config = varied(CONFIG, pooled={"moment_share": 1.0, "cold_fraction": 0.0})
    examples = draw_epoch(corpus.events, corpus.trend, config, np.random.default_rng(1)).examples
    assert set(examples.as_of.tolist()) <= set(corpus.trend.moments.tolist())
    for moment in np.unique(examples.as_of):
        mine = examples.as_of == moment
        expected = cut_at(corpus.events, int(moment))
        assert set(zip(examples.starts[mine], examples.cuts[mine], strict=True)) <= set(
            zip(expected.starts, expected.cuts, strict=True)
        )


def test_recent_examples_are_drawn_more_often() -> None:
    corpus = walks()
    ages = []
    for half_life in (1.0, 10_000.0):
        config = varied(CONFIG, pooled={"recency_half_life_days": half_life, "moment_share": 1.0})
        examples = draw_epoch(corpus.events, corpus.trend, config, np.random.default_rng(1)).examples
        ages.append(float((NOW - examples.as_of).mean()))
    assert ages[0] < 0.8 * ages[1]


def test_every_example_is_in_one_batch() -> None:
    corpus = walks()
    epoch = draw_epoch(corpus.events, corpus.trend, CONFIG, np.random.default_rng(1))
    drawn = list(batches(corpus.events, epoch, corpus.trend, config=CONFIG, rng=np.random.default_rng(2)))
    assert sum(len(batch.targets) for batch in drawn) == len(epoch.examples)
    counts = np.bincount(np.concatenate([b.targets[b.target_weights > 0] for b in drawn]), minlength=15)
    assert_array_equal(counts, epoch.target_counts(15))


def test_histories_are_padded_at_the_left_and_keep_the_latest() -> None:
    corpus = walks(users=2, length=5)
    histories = gather_histories(corpus.events, cut_at(corpus.events, NOW - 2 * DAY), 3)
    assert histories.values.tolist()[0] == [1.0, 2.0, 3.0]
    assert_allclose(histories.ages.numpy()[0] / DAY, [2.0, 1.0, 0.0])
    assert histories.rows.tolist()[0] == [1, 2, 3]
    short = gather_histories(corpus.events, cut_at(corpus.events, NOW - 5 * DAY), 3)
    assert short.rows.shape == (2, 1)
    assert short.weights.tolist() == [[1.0], [1.0]]


def served(corpus: Corpus) -> ServedUserTower:
    snapshot = snapshot_of([], dict.fromkeys(range(1, 16), ""))
    model = new_model(Content.of(snapshot.catalogue), corpus.events, CONFIG).eval()
    return ServedUserTower(model, model.item_vectors(corpus.latest, corpus.known)[:, :8].copy()).eval()


def test_the_graph_is_held_to_pytorch(tmp_path: Path) -> None:
    corpus = walks()
    tower, other = served(corpus), served(corpus)
    histories = gather_histories(corpus.events, cut_at(corpus.events, NOW - 3 * DAY), 7)
    export_tower(tower, tmp_path / "tower.onnx")
    assert check_parity(tower, tmp_path / "tower.onnx", histories, 1e-4) < 1e-5
    with torch.no_grad():
        other.users.taste.bias += 0.01
    with pytest.raises(ContractBroken, match=r"differs from PyTorch by 1\.00e-02, at most 1e-04"):
        check_parity(other, tmp_path / "tower.onnx", histories, 1e-4)


def test_empty_histories_of_a_batch_do_not_disturb_it() -> None:
    corpus = walks()
    tower = served(corpus)
    rows = torch.tensor([[1, 2, 3], [0, 0, 0]])
    values, ages = torch.full((2, 3), float("nan")), torch.ones(2, 3)
    weights = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    together = tower(rows, values, ages, weights).detach()
    alone = tower(rows[:1], values[:1], ages[:1], weights[:1]).detach()
    assert torch.isfinite(together).all()
    assert_allclose(together[:1], alone, atol=1e-6)
    assert isinstance(Histories(rows, values, ages, weights).to(torch.device("cpu")).rows, torch.Tensor)
