"""Windows of histories and losses over them, with known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.nn import functional

from offline.dataset.interactions import TrainingEvents
from offline.recall.two_tower.config import SequenceConfig, TwoTowerConfig
from offline.recall.two_tower.corpus import Corpus
from offline.recall.two_tower.loss import ItemSample, NegativeSampler
from offline.recall.two_tower.objectives import Sample, objective_loss
from offline.recall.two_tower.sequence_learner import Schedule, item_sampler
from offline.recall.two_tower.windows import Windows, draw_windows, gather_windows, pack
from tests.recall_server.toy import DAY, Event, snapshot_of


def histories(*lengths: int) -> TrainingEvents:
    """User u takes items 1, 2, 3, … one a day; the value tells which."""
    events: list[Event] = [
        (user, item + 1, float(100 - item), float(item + 1)) for user, n in enumerate(lengths) for item in range(n)
    ]
    return snapshot_of(events, dict.fromkeys(range(1, 101), "")).events


@pytest.mark.parametrize("seed", range(5))
def test_every_event_but_the_first_is_one_target(seed: int) -> None:
    events = histories(1, 2, 10, 11, 12, 57)
    windows = draw_windows(events, 10, np.random.default_rng(seed))
    assert windows.lengths.min() >= 1
    assert windows.lengths.max() <= 10
    targets = np.concatenate([np.arange(s + 1, e) for s, e in zip(windows.starts, windows.ends, strict=True)])
    firsts = set(events.indptr[:-1].tolist())
    assert sorted(targets.tolist()) == [at for at in range(len(events.item_rows)) if at not in firsts]
    assert_array_equal(events.user_rows[windows.starts], events.user_rows[windows.ends - 1])


def test_cuts_differ_by_draw() -> None:
    events = histories(57)
    cuts = {tuple(draw_windows(events, 10, np.random.default_rng(seed)).ends) for seed in range(10)}
    assert len(cuts) > 1
    assert all(ends[0] == 57 for ends in cuts)


def test_a_window_tells_what_came_next_and_when() -> None:
    events = histories(5, 3)
    batch = gather_windows(events, Windows(np.asarray([1, 5]), np.asarray([5, 8])))
    assert batch.histories.rows.tolist() == [[1, 2, 3], [0, 0, 1]]
    assert batch.targets.tolist() == [[2, 3, 4], [0, 1, 2]]
    assert batch.present.tolist() == [[True, True, True], [False, True, True]]
    assert_allclose(batch.histories.ages.numpy() / DAY, [[3, 2, 1], [0, 2, 1]])
    assert batch.histories.weights.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert batch.first_rows.tolist() == [0]


def test_packs_hold_every_window_once_and_little_padding() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 300)
    windows = Windows(np.zeros(300, np.int64), lengths + 1)
    groups = pack(windows, 200, rng)
    assert sorted(np.concatenate(groups).tolist()) == list(range(300))
    sizes = [int(lengths[group].max()) * len(group) for group in groups]
    assert max(sizes) <= 200
    assert lengths.sum() > 0.75 * sum(sizes)
    assert pack(Windows(np.empty(0, np.int64), np.empty(0, np.int64)), 200, rng) == []
    assert len(pack(Windows(np.zeros(2, np.int64), np.asarray([51, 51])), 10, rng)) == 2


def sample(n: int = 7, items: int = 5, *, negatives: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Sample:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(n, 3, generator=generator).requires_grad_()
    vectors = torch.randn(items, 3, generator=generator).requires_grad_()
    targets = torch.arange(n) % items
    return Sample(users, vectors, targets, torch.tensor(negatives), torch.ones(items, dtype=torch.bool), 1.0)


def test_full_softmax_is_cross_entropy_with_its_gradients() -> None:
    ours, theirs = sample(2_500), sample(2_500)
    loss = objective_loss("cross-entropy", ours) * 3
    expected = functional.cross_entropy(theirs.users @ theirs.items.T, theirs.targets) * 3
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, other in ((ours.users, theirs.users), (ours.items, theirs.items)):
        assert mine.grad is not None
        assert other.grad is not None
        assert_allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_items_nobody_took_are_no_negatives() -> None:
    asked = sample()
    asked.known[4] = False
    asked.targets.clamp_(max=3)
    expected = functional.cross_entropy(asked.users @ asked.items[:4].T, asked.targets).item()
    assert objective_loss("cross-entropy", asked).item() == pytest.approx(expected, rel=1e-5)


def test_sampled_softmax_with_every_item_once_is_cross_entropy_less_the_correction() -> None:
    asked = sample()
    expected = functional.cross_entropy(asked.users @ asked.items.T, asked.targets).item()
    assert objective_loss("sampled-softmax", asked).item() == pytest.approx(expected, rel=1e-5)
    twice = sample(negatives=(0, 1, 2, 3, 4) * 2)
    assert objective_loss("sampled-softmax", twice).item() == pytest.approx(expected, rel=1e-5)


def drawn_from(asked: Sample, share: list[float], *, uniform: int, rng: np.random.Generator) -> Sample:
    sampler = NegativeSampler(np.arange(len(share)), np.asarray(share), uniform)
    return replace(asked, drawn=sampler.sample(asked.targets.numpy(), rng))


def test_cross_entropy_of_a_sample_that_is_everything_is_exact() -> None:
    asked = sample()
    everything = drawn_from(asked, [0.2] * 5, uniform=5, rng=np.random.default_rng(0))
    exact, estimated = (objective_loss("cross-entropy", one) for one in (asked, everything))
    assert estimated.item() == pytest.approx(exact.item(), rel=1e-5)
    assert asked.items.grad is None
    exact.backward()
    expected = asked.items.grad
    asked.items.grad = None
    estimated.backward()
    assert expected is not None
    assert asked.items.grad is not None
    assert_allclose(asked.items.grad, expected, rtol=1e-4, atol=1e-6)


def test_the_sum_that_cross_entropy_estimates_is_that_of_all_items_in_the_mean() -> None:
    """Steps differ in their targets. Without logQ, items that are often targets would weigh too much in the sum."""
    rng, n_items = np.random.default_rng(3), 40
    scores = rng.normal(0, 1, n_items)
    share = np.exp(scores) / np.exp(scores).sum()
    exact = np.exp(scores).sum()
    sampler = NegativeSampler(np.arange(n_items), share, uniform=8)
    steps = [sampler.sample(rng.choice(n_items, 16, p=share), rng) for _ in range(4_000)]
    assert np.mean([np.exp(scores[step.rows] + step.correction).sum() for step in steps]) == pytest.approx(
        exact, rel=0.02
    )
    assert np.mean([np.exp(scores[step.rows]).sum() for step in steps]) < 0.8 * exact


def test_the_chosen_item_is_no_negative_of_itself_however_often_it_was_drawn() -> None:
    users, items = torch.tensor([[1.0]]), torch.tensor([[2.0], [0.5]])
    drawn = ItemSample(np.asarray([0, 1]), np.asarray([3.0, -0.25], np.float32))
    asked = Sample(users, items, torch.tensor([0]), torch.tensor([1]), torch.ones(2, dtype=torch.bool), 1.0, drawn)
    assert objective_loss("cross-entropy", asked).item() == pytest.approx(np.log1p(np.exp(0.5 - 0.25 - 2.0)), rel=1e-5)


def test_a_large_catalogue_is_sampled_and_a_small_one_is_not() -> None:
    events: list[Event] = [(user, 1 + (user + day) % 6, 9.0 - day) for user in range(9) for day in range(4)]
    snapshot = snapshot_of(events, dict.fromkeys(range(1, 7), ""))
    corpus = Corpus.of(snapshot.events, len(snapshot.catalogue), snapshot.cutoff, TwoTowerConfig())
    assert item_sampler(corpus, SequenceConfig(exact_items=6)) is None
    assert item_sampler(corpus, SequenceConfig(exact_items=5, loss="bpr")) is None
    sampler = item_sampler(corpus, SequenceConfig(exact_items=5, sampled_negatives=2))
    assert sampler is not None
    assert sampler.target_share.sum() == pytest.approx(1)
    counts = np.bincount(corpus.events.item_rows, minlength=6)
    assert_allclose(sampler.target_share, counts / counts.sum())


def test_pairs_and_squares_by_hand() -> None:
    users, items = torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 0.5], [-1.0, 0.0], [0.5, 0.0]])
    asked = Sample(users, items, torch.tensor([0]), torch.tensor([0, 1, 2]), torch.ones(3, dtype=torch.bool), 0.0)
    bpr = (np.log1p(np.exp(-2.0 - 2.5)) + np.log1p(np.exp(1.0 - 2.5)) + 0.0) / 3
    mse = (2.5 - 1) ** 2 + (4.0 + 1.0) / 2
    bce = np.log1p(np.exp(-2.5)) + np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))
    assert objective_loss("bpr", asked).item() == pytest.approx(bpr, rel=1e-5)
    assert objective_loss("mse", asked).item() == pytest.approx(mse, rel=1e-5)
    assert objective_loss("mse+bpr", asked).item() == pytest.approx(mse + bpr, rel=1e-5)
    assert objective_loss("gbce", asked).item() == pytest.approx(bce, rel=1e-5)


def test_gbce_weakens_the_positive_by_the_sampling_rate() -> None:
    users, items = torch.zeros(1, 2), torch.zeros(11, 2)
    asked = Sample(users, items, torch.tensor([0]), torch.tensor([1]), torch.ones(11, dtype=torch.bool), 1.0)
    assert objective_loss("gbce", asked).item() == pytest.approx((0.1 + 1) * np.log(2), rel=1e-5)


def test_the_step_size_rises_and_falls() -> None:
    schedule = Schedule(1.0, 4, 0.1)
    rates = [schedule.rate(progress) for progress in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert rates == pytest.approx([0.02, 0.51, (1 + np.cos(0.1 * np.pi)) / 2, 0.5, 0.0], abs=1e-6)
    assert Schedule(1.0, 4, 0.0).rate(0.0) == 1.0
