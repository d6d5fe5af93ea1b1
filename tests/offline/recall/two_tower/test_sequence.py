"""The sequence towers: what comes next, who sees what, cold items, and that a killed training ends the same."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from offline.dataset.interactions import Snapshot
from offline.recall.two_tower import TwoTowerConfig, index_items, train
from offline.recall.two_tower.checkpoint import CHECKPOINT_FILE, WEIGHTS_FILE
from offline.recall.two_tower.config import PooledConfig, SequenceConfig
from offline.recall.two_tower.corpus import Corpus
from offline.recall.two_tower.model import Content, Histories
from offline.recall.two_tower.objectives import ObjectiveName
from offline.recall.two_tower.sequence import SequenceTower
from offline.recall.two_tower.sequence_learner import Schedule, SequenceLearner
from offline.recall.two_tower.side_data import TEXT_VECTORS_FILE, ItemSideData
from offline.recall.two_tower.training import new_sequence_model
from offline.recall.two_tower.validation import Validation
from offline.recall.two_tower.windows import draw_windows, gather_windows
from offline.steps.sampling import notes_in
from recall_server.channels.vector import FILES, VECTORS_FILE, VectorChannel, read_facts
from recsys.domain import History, RecallQuery
from recsys.errors import CannotStart, DataMalformed, DataMissing
from recsys.people import People, Role
from tests.offline.recall.two_tower.towers import varied
from tests.recall_server.toy import DAY, NOW, Event, snapshot_of

CONFIG = TwoTowerConfig(
    tower="sequence",
    threads=1,
    device="cpu",
    sequence=SequenceConfig(
        size=16,
        dropout=0.0,
        id_dropout=0.0,
        events=96,
        learning_rate=0.02,
        averaging=0.5,
        epochs=8,
        patience=8,
        refit_epochs=1,
        negatives=8,
    ),
)
CPU = torch.device("cpu")
N_ITEMS = 12


def rounds(users: int = 24, *, newcomer: str = "") -> Snapshot:
    """User u starts at item u mod 12 and takes the next higher one every day, after 12 comes 1; seven each.

    A `newcomer`, item 13, is of that genre and nobody took it; items 1 to 6 are Drama, 7 to 12 Comedy.
    """
    events: list[Event] = [
        (user, (user + day) % N_ITEMS + 1, 10.0 - day, 4.0) for user in range(users) for day in range(7)
    ]
    genres = {item: "Drama" if item <= N_ITEMS // 2 else "Comedy" for item in range(1, N_ITEMS + 1)}
    genres |= {N_ITEMS + 1: newcomer} if newcomer else {}
    return snapshot_of(events, genres, years=dict.fromkeys(genres, 1990))


def trained(folder: Path, snapshot: Snapshot, config: TwoTowerConfig = CONFIG, *, initial: Path | None = None) -> Path:
    snapshot.catalogue.save(folder)
    train(snapshot, config, folder, initial=initial)
    return folder


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained towers of `rounds`; nobody may write here."""
    longer = {"epochs": 24, "patience": 24}
    return trained(tmp_path_factory.mktemp("towers"), rounds(), varied(CONFIG, sequence=longer))


def ask(folder: Path, *item_ids: int, count: int = 3) -> list[int]:
    """What is recommended a day after somebody took `item_ids`, one a day; those left out."""
    times = [NOW - DAY * (len(item_ids) - place) for place in range(len(item_ids))]
    history = History.of(item_ids, times, values=[4.0] * len(item_ids))
    query = RecallQuery(history, NOW, count, exclude_item_ids=np.asarray(item_ids, np.int64))
    return VectorChannel.open(folder).recall([query])[0].item_ids.tolist()


def model_of(snapshot: Snapshot, config: TwoTowerConfig = CONFIG) -> SequenceTower:
    side = ItemSideData.of(snapshot.catalogue)
    return new_sequence_model(Content.of(snapshot.catalogue), snapshot.events, config, side=side)


def test_the_item_that_comes_next_is_first(towers: Path) -> None:
    assert [ask(towers, *around(item))[0] for item in range(1, N_ITEMS + 1)] == [
        around(item + 1)[-1] for item in range(1, N_ITEMS + 1)
    ]


def around(item: int) -> tuple[int, ...]:
    """The three items of the round that end in `item`."""
    return tuple((item - back - 1) % N_ITEMS + 1 for back in (2, 1, 0))


def test_order_decides_not_the_set(tmp_path: Path) -> None:
    events: list[Event] = [
        (user, item, 3.0 - day, 4.0)
        for user in range(30)
        for day, item in enumerate((1, 2, 3) if user % 2 else (2, 1, 4))
    ]
    longer = {"epochs": 30, "patience": 30, "refit_epochs": 20, "refit_rate": 1.0}
    folder = trained(tmp_path, snapshot_of(events, dict.fromkeys(range(1, 7), "")), varied(CONFIG, sequence=longer))
    assert ask(folder, 1, 2)[0] == 3
    assert ask(folder, 2, 1)[0] == 4


def test_the_cold_vector_ranks_what_users_begin_with(tmp_path: Path) -> None:
    events: list[Event] = [
        (user, 1 if day == 0 else 2 + (user + day) % 8, 9.0 - day) for user in range(30) for day in range(4)
    ]
    assert ask(trained(tmp_path, snapshot_of(events, dict.fromkeys(range(1, 11), ""))), count=1) == [1]


def test_no_state_sees_what_comes_later() -> None:
    model = model_of(rounds()).eval()
    rows, ages = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[40.0, 30.0, 20.0, 10.0]])
    other = torch.tensor([[1, 2, 3, 9]])
    latent = model.items()[:, :-1]
    ones, values = torch.ones(1, 4), torch.full((1, 4), 4.0)
    before = model.users.states(latent[rows], Histories(rows, values, ages, ones)).detach()
    after = model.users.states(latent[other], Histories(other, values, ages, ones)).detach()
    assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert not np.allclose(before[:, 3], after[:, 3], atol=1e-3)


def test_the_vector_of_a_user_changes_with_the_times_of_events_alone() -> None:
    """The same events: day by day, with a long pause before the last one, asked a month later, and all at once."""
    model = model_of(rounds()).eval()
    ages = DAY * torch.tensor([[3.0, 2.0, 1.0], [90.0, 89.0, 1.0], [33.0, 32.0, 31.0], [1.0, 1.0, 1.0]])
    rows = torch.tensor([[1, 2, 3]]).expand(4, 3)
    histories = Histories(rows, torch.full((4, 3), 4.0), ages, torch.ones(4, 3))
    vectors = model.users(model.items()[:, :-1][rows], histories).detach().numpy()
    apart = np.abs(vectors[:, None] - vectors[None]).max(axis=2)
    assert apart[np.triu_indices(4, 1)].min() > 1e-2


def test_training_states_are_what_serving_computes() -> None:
    snapshot = rounds(4)
    model, events = model_of(snapshot).eval(), snapshot.events
    batch = gather_windows(events, draw_windows(events, 200, np.random.default_rng(0)))
    latent = model.items()[:, :-1]
    states = model.users.states(latent[batch.histories.rows], batch.histories).detach()
    until = 4
    history = Histories(*(part[:, :until] for part in fields(batch.histories)))
    asked = batch.histories.ages[:, until : until + 1]
    history = Histories(history.rows, history.values, history.ages - asked, history.weights)
    served = model.users(latent[history.rows], history).detach()
    assert_allclose(served[:, :-1], states[:, until - 1], atol=1e-5)
    assert_array_equal(served[:, -1], np.ones(4))


def fields(histories: Histories) -> tuple[torch.Tensor, ...]:
    return histories.rows, histories.values, histories.ages, histories.weights


def test_padding_changes_no_vector_and_no_history_is_the_cold_vector() -> None:
    model = model_of(rounds()).eval()
    latent = model.items()[:, :-1]
    short = Histories(
        torch.tensor([[1, 2]]), torch.tensor([[4.0, float("nan")]]), torch.tensor([[9.0, 5.0]]), torch.ones(1, 2)
    )
    padded = Histories(*(torch.nn.functional.pad(part, (3, 0)) for part in fields(short)))
    expected = model.users(latent[short.rows], short).detach()
    assert_allclose(model.users(latent[padded.rows], padded).detach(), expected, atol=1e-6)
    nothing = Histories(short.rows, short.values, short.ages, torch.zeros(1, 2))
    cold = model.users(latent[short.rows], nothing).detach()
    assert_allclose(cold[:, :-1], model.users.scaled(model.users.cold)[None].detach(), atol=1e-6)


@pytest.mark.parametrize("loss", ["cross-entropy", "sampled-softmax", "gbce", "mse", "bpr", "mse+bpr"])
def test_overfits_a_small_batch(loss: ObjectiveName) -> None:
    snapshot = rounds(N_ITEMS)
    config = varied(CONFIG, sequence={"loss": loss, "negatives": 64})
    learner = SequenceLearner(model_of(snapshot, config), config, CPU, schedule=Schedule(0.02, 1, 0.0))
    events = snapshot.events
    batch = gather_windows(events, draw_windows(events, 200, np.random.default_rng(0)))
    known = torch.ones(N_ITEMS, dtype=torch.bool)
    learner.model.train()
    losses = [learner.step(batch, known) for _ in range(80)]
    assert losses[-1] < 0.5 * losses[0]
    validation = Validation.of_latest(events, N_ITEMS, snapshot.cutoff, config)
    assert validation.score(learner.best, 200) > 0.95


def test_towers_learn_what_comes_next_from_a_sample_of_items_and_some_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Six of twelve items and those of the step, one of two steps per epoch: it takes more epochs, and is noted."""
    caplog.set_level(logging.INFO)
    few = {"exact_items": 6, "sampled_negatives": 6, "max_steps": 1, "epochs": 60, "patience": 60}
    folder = trained(tmp_path, rounds(), varied(CONFIG, sequence=few))
    assert [ask(folder, *around(item))[0] for item in range(1, N_ITEMS + 1)] == [
        around(item + 1)[-1] for item in range(1, N_ITEMS + 1)
    ]
    assert notes_in(folder) == [
        "vector: a sample, 1 of 2 steps per epoch",
        "vector: a sample, 6 of 12 negative items per step",
    ]


@pytest.mark.parametrize(("most", "steps"), [(1, 1), (5, 2)])
def test_an_epoch_has_so_many_steps_at_most(monkeypatch: pytest.MonkeyPatch, most: int, steps: int) -> None:
    snapshot, config = rounds(), varied(CONFIG, sequence={"max_steps": most})
    learner = SequenceLearner(model_of(snapshot, config), config, CPU, schedule=Schedule(0.02, 1, 0.0))
    taken: list[int] = []
    monkeypatch.setattr(learner, "step", lambda batch, *_: taken.append(len(batch.targets)) or 0.0)
    learner.epoch(Corpus.of(snapshot.events, N_ITEMS, snapshot.cutoff, config), phase=0, number=0)
    assert len(taken) == steps


def test_validation_asks_for_each_latest_event_at_its_time() -> None:
    snapshot = rounds()
    validation = Validation.of_latest(snapshot.events, N_ITEMS, snapshot.cutoff, CONFIG)
    assert_array_equal(np.diff(validation.corpus.events.indptr), np.full(24, 6))
    assert_array_equal(validation.users.cuts, snapshot.events.indptr[1:] - 1)
    assert_array_equal(validation.users.as_of, snapshot.events.timestamps[snapshot.events.indptr[1:] - 1])


def test_an_item_nobody_took_stands_with_its_genre(tmp_path: Path) -> None:
    config = varied(CONFIG, sequence={"id_dropout": 0.3})
    vectors = np.load(trained(tmp_path, rounds(newcomer="Comedy"), config) / VECTORS_FILE)[:, :16]
    similarity = vectors[N_ITEMS] @ vectors[:N_ITEMS].T
    assert similarity[6:].mean() > similarity[:6].mean() + 0.1


def test_a_new_item_enters_the_index_without_training(tmp_path: Path) -> None:
    config = varied(CONFIG, sequence={"id_dropout": 0.3})
    first = trained(tmp_path / "first", rounds(), config)
    later, folder = rounds(newcomer="Drama"), tmp_path / "later"
    later.catalogue.save(folder)
    index_items(later, config, folder, trained=first)
    before, after = np.load(first / VECTORS_FILE)[:, :17], np.load(folder / VECTORS_FILE)[:, :17]
    assert_allclose(after[:N_ITEMS], before, atol=1e-6)
    similarity = after[N_ITEMS, :16] @ after[:N_ITEMS, :16].T
    assert similarity[:6].mean() > similarity[6:].mean() + 0.1
    assert ask(folder, 2, 3, 4)[0] == 5
    assert N_ITEMS + 1 in ask(folder, 2, 3, 4, count=N_ITEMS)
    assert read_facts(folder).index.count == N_ITEMS + 1


def test_the_pooled_towers_take_a_new_item_in_likewise(tmp_path: Path) -> None:
    config = TwoTowerConfig(
        threads=1,
        pooled=PooledConfig(
            embedding_size=8, heads=2, hidden=16, min_examples=256, batch_size=64, epochs=3, averaging=0.5
        ),
    )
    config = varied(config, device="cpu", pooled={"id_dropout": 0.3, "learning_rate": 0.02})
    first, later = trained(tmp_path / "first", rounds(), config), rounds(newcomer="Comedy")
    index_items(later, config, tmp_path / "later", trained=first)
    vectors = np.load(tmp_path / "later" / VECTORS_FILE)[:, :8]
    similarity = vectors[N_ITEMS] @ vectors[:N_ITEMS].T
    assert similarity[6:].mean() > similarity[:6].mean()


def side_of(people: dict[int, list[int]], text: np.ndarray | None = None) -> ItemSideData:
    """Person ids by item row, one row more than `rounds` has."""
    lists = [people.get(row, []) for row in range(N_ITEMS + 1)]
    ids = np.unique([person for row in lists for person in row]).astype(np.int64)
    return ItemSideData(
        ids,
        np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64),
        np.searchsorted(ids, [person for row in lists for person in row]).astype(np.int64),
        np.zeros((N_ITEMS + 1, 0), np.float32) if text is None else text,
    )


@pytest.mark.parametrize("described_by", ["people", "text"])
def test_a_cold_item_stands_with_its_people_and_its_text(tmp_path: Path, described_by: str) -> None:
    group = [0] * 6 + [1] * 6 + [1]
    people = {row: [70 + group[row]] for row in range(N_ITEMS + 1)} if described_by == "people" else {}
    text = np.eye(2, dtype=np.float32)[group] if described_by == "text" else None
    config = varied(CONFIG, sequence={"id_dropout": 0.3})
    train(rounds(newcomer="None"), config, tmp_path, side=side_of(people, text))
    vectors = np.load(tmp_path / VECTORS_FILE)[:, :16]
    similarity = vectors[N_ITEMS] @ vectors[:N_ITEMS].T
    assert similarity[6:].mean() > similarity[:6].mean() + 0.1


def test_side_data_are_the_catalogues_people_and_the_folders_text(tmp_path: Path) -> None:
    snapshot = rounds(4)
    people = People(
        np.asarray([0, 2, 2, *[3] * 10], np.int64),
        np.asarray([1, 0, 1], np.int32),
        np.asarray([Role.DIRECTOR, Role.CAST, Role.DIRECTOR], np.int8),
        np.asarray([5, 9], np.int64),
    )
    catalogue = replace(snapshot.catalogue, people=people)
    side = ItemSideData.of(catalogue, tmp_path)
    assert side.person_ids[side.people[side.people_indptr[0] : side.people_indptr[1]]].tolist() == [9, 5]
    assert side.person_ids[side.people[side.people_indptr[2] : side.people_indptr[3]]].tolist() == [9]
    assert side.text.shape == (N_ITEMS, 0)
    path = tmp_path / TEXT_VECTORS_FILE
    path.parent.mkdir()
    np.save(path, np.asarray([[3.0, 4.0]] + [[0.0, 0.0]] * (N_ITEMS - 1), np.float32))
    assert_allclose(ItemSideData.of(catalogue, tmp_path).text[:2], [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    np.save(path, np.zeros((3, 2), np.float32))
    with pytest.raises(DataMalformed, match=r"float32\[3, 2\], expected finite float32\[12, d\]"):
        ItemSideData.of(catalogue, tmp_path)


def test_towers_of_another_shape_are_not_indexed(tmp_path: Path, towers: Path) -> None:
    with pytest.raises(DataMissing, match="this configuration needs"):
        index_items(rounds(), varied(CONFIG, sequence={"size": 8}), tmp_path / "b", trained=towers)
    with pytest.raises(DataMissing, match="no towers to continue"):
        index_items(rounds(), CONFIG, tmp_path / "b", trained=tmp_path / "nowhere")


SHORT = varied(CONFIG, sequence={"epochs": 2, "refit_epochs": 2, "dropout": 0.2})


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Towers of a short training that nothing disturbed."""
    return trained(tmp_path_factory.mktemp("short"), rounds(), SHORT)


def test_another_seed_gives_other_towers(tmp_path: Path, short: Path) -> None:
    other = trained(tmp_path, rounds(), SHORT.model_copy(update={"seed": 2}))
    assert (other / VECTORS_FILE).read_bytes() != (short / VECTORS_FILE).read_bytes()


class _Killed(Exception):
    """Stands for SIGKILL: nothing of ours handles it."""


@pytest.mark.parametrize("epochs_done", [1, 3])
def test_a_killed_training_continues_to_the_same_result(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch, epochs_done: int
) -> None:
    """The files alone do not tell: where the first epoch was the best, later ones leave nothing in them."""
    epoch, losses = SequenceLearner.epoch, list[float]()

    def recorded(self: SequenceLearner, *arguments: object, **named: object) -> float:
        losses.append(epoch(self, *arguments, **named))  # type: ignore[arg-type]
        return losses[-1]

    monkeypatch.setattr(SequenceLearner, "epoch", recorded)
    trained(tmp_path / "whole", rounds(), SHORT)
    undisturbed = losses.copy()
    losses.clear()

    def dying(self: SequenceLearner, *arguments: object, **named: object) -> float:
        if len(losses) == epochs_done:
            raise _Killed
        return recorded(self, *arguments, **named)

    monkeypatch.setattr(SequenceLearner, "epoch", dying)
    with pytest.raises(_Killed):
        trained(tmp_path / "killed", rounds(), SHORT)
    assert (tmp_path / "killed" / CHECKPOINT_FILE).is_file()
    monkeypatch.setattr(SequenceLearner, "epoch", recorded)
    trained(tmp_path / "killed", rounds(), SHORT)
    assert losses == undisturbed
    assert len(losses) == 4
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (short / name).read_bytes()


def test_towers_continue_those_of_an_earlier_cut_off(tmp_path: Path, towers: Path) -> None:
    still = varied(CONFIG, sequence={"learning_rate": 1e-9, "continue_epochs": 1})
    later = trained(tmp_path, rounds(newcomer="Drama"), still, initial=towers)
    with np.load(towers / WEIGHTS_FILE) as before, np.load(later / WEIGHTS_FILE) as after:
        assert_allclose(after["items.id_embedding.weight"][:N_ITEMS], before["items.id_embedding.weight"], atol=1e-5)
        assert_allclose(after["users.event.weight"], before["users.event.weight"], atol=1e-5)
    assert ask(later, 2, 3, 4)[0] == 5


def test_layers_in_sixteen_bits_learn_too() -> None:
    snapshot = rounds()
    config = varied(CONFIG, sequence={"precision": "mixed"})
    learner = SequenceLearner(model_of(snapshot, config), config, CPU, schedule=Schedule(0.02, 8, 0.04))
    validation = Validation.of_latest(snapshot.events, N_ITEMS, snapshot.cutoff, config)
    for number in range(8):
        learner.epoch(validation.corpus, phase=0, number=number)
    assert all(value.dtype == torch.float32 for value in learner.model.parameters())
    assert validation.score(learner.best, 200) > 0.9


def test_heads_divide_the_width() -> None:
    with pytest.raises(CannotStart, match=r"two_tower\.sequence\.heads 3 does not divide two_tower\.sequence\.size 16"):
        model_of(rounds(), varied(CONFIG, sequence={"heads": 3}))


def test_trains_where_nobody_can_be_validated(tmp_path: Path) -> None:
    folder = trained(
        tmp_path, snapshot_of([(user, 1 + user % 3, 1.0) for user in range(12)], dict.fromkeys(range(1, 4), ""))
    )
    assert sorted(ask(folder)) == [1, 2, 3]
