"""The two towers: what is learned, in which order it ranks, and that a killed training ends in the same towers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from offline.dataset.interactions import Snapshot
from offline.recall.two_tower import TwoTowerConfig, checkpoint, train
from offline.recall.two_tower.batches import Epoch, batches, draw_epoch
from offline.recall.two_tower.checkpoint import CHECKPOINT_FILE, WEIGHTS_FILE, fingerprint
from offline.recall.two_tower.config import PooledConfig
from offline.recall.two_tower.corpus import Corpus
from offline.recall.two_tower.learner import Learner
from offline.recall.two_tower.loss import NegativeSampler
from offline.recall.two_tower.model import Content, Histories, ItemTower, TwoTower
from offline.recall.two_tower.sequence import SequenceTower
from offline.recall.two_tower.side_data import ItemSideData
from offline.recall.two_tower.training import choose_device, new_model
from offline.recall.two_tower.validation import Validation
from recall_server.channels.vector import FILES, VECTORS_FILE, VectorChannel
from recsys.catalogue import NO_YEAR
from recsys.domain import History, RecallQuery
from recsys.errors import DataMissing
from tests.offline.recall.two_tower.towers import varied
from tests.recall_server.toy import DAY, NOW, Event, snapshot_of

CONFIG = TwoTowerConfig(
    threads=1,
    device="cpu",
    pooled=PooledConfig(
        embedding_size=8,
        heads=2,
        hidden=32,
        dropout=0.0,
        event_dropout=0.0,
        min_examples=512,
        batch_size=64,
        learning_rate=0.02,
        averaging=0.9,
        epochs=4,
    ),
)
CPU = torch.device("cpu")


def two_tastes(users: int = 40, *, newcomer: bool = False) -> Snapshot:
    """Even users take items 1 to 10 in an order of their own, odd users 11 to 20; one a day, seven each.

    A `newcomer`, item 21, is of the second taste's genre and nobody took it.
    """
    rng = np.random.default_rng(0)
    events: list[Event] = [
        (user, int(item), 20.0 - day - user / users, 4.0)
        for user in range(users)
        for day, item in enumerate(rng.permutation(10)[:7] + (1 if user % 2 == 0 else 11))
    ]
    genres = {item: "Drama" if item <= 10 else "Comedy" for item in range(1, 22 if newcomer else 21)}
    return snapshot_of(events, genres, years=dict.fromkeys(genres, 1990))


def trained(folder: Path, snapshot: Snapshot, config: TwoTowerConfig = CONFIG, *, initial: Path | None = None) -> Path:
    snapshot.catalogue.save(folder)
    train(snapshot, config, folder, initial=initial)
    return folder


def ask(folder: Path, *item_ids: int, count: int = 10) -> list[int]:
    """What a user of yesterday's `item_ids` is recommended, those left out."""
    history = History.of(item_ids, [NOW - DAY] * len(item_ids), values=[4.0] * len(item_ids))
    query = RecallQuery(history, NOW, count, exclude_item_ids=np.asarray(item_ids, np.int64))
    return VectorChannel.open(folder).recall([query])[0].item_ids.tolist()


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_each_taste_gets_its_own_items_first(tmp_path: Path) -> None:
    folder = trained(tmp_path, two_tastes())
    assert set(ask(folder, 1, 2, 3, count=7)) == {4, 5, 6, 7, 8, 9, 10}
    assert set(ask(folder, 11, 12, 13, count=7)) == {14, 15, 16, 17, 18, 19, 20}


def test_the_cold_vector_ranks_by_popularity(tmp_path: Path) -> None:
    events: list[Event] = [
        (user, item, (user * 7 + item * 5) % 23 + 1.0, 4.0) for item in range(1, 13) for user in range(4 * (13 - item))
    ]
    folder = trained(tmp_path, snapshot_of(events, dict.fromkeys(range(1, 13), "Any")))
    assert set(ask(folder, count=4)) == {1, 2, 3, 4}


def test_an_item_nobody_took_stands_with_its_genre(tmp_path: Path) -> None:
    folder = trained(tmp_path, two_tastes(newcomer=True), varied(CONFIG, pooled={"id_dropout": 0.3}))
    items = np.load(folder / VECTORS_FILE)[:, : CONFIG.pooled.embedding_size]
    similarity = items[20] @ items[:20].T
    assert similarity[10:].mean() > similarity[:10].mean()


def test_overfits_a_small_batch() -> None:
    snapshot = two_tastes(16)
    config = varied(CONFIG, pooled={"id_dropout": 0.0, "reg": 0.0, "targets": 1, "moment_share": 0.0})
    corpus = Corpus.of(snapshot.events, 20, NOW, config)
    rng = np.random.default_rng(0)
    drawn = draw_epoch(corpus.events, corpus.trend, config, rng)
    _, different = np.unique(drawn.examples.cuts, return_index=True)
    epoch = Epoch(drawn.examples.take(different), drawn.targets[different], drawn.target_weights[different])
    batch = next(batches(corpus.events, epoch, corpus.trend, config=config, rng=rng))
    learner = Learner(new_model(Content.of(snapshot.catalogue), corpus.events, config), config, CPU)
    sample = NegativeSampler(np.arange(20), np.full(20, 0.05), 20).sample(batch.targets, rng)
    learner.model.train()
    losses = [learner.step(batch, sample, corpus.trend) for _ in range(300)]
    assert losses[0] > 1.0
    assert losses[-1] < 0.1 * losses[0]


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    snapshot, short = two_tastes(), varied(CONFIG, pooled={"epochs": 2})
    first, second = (files_of(trained(tmp_path / name, snapshot, short)) for name in "ab")
    assert first == second
    other = files_of(trained(tmp_path / "c", snapshot, short.model_copy(update={"seed": 2})))
    assert other[VECTORS_FILE] != first[VECTORS_FILE]


class _Killed(Exception):
    """Stands for SIGKILL: nothing of ours handles it."""


@pytest.mark.parametrize("epochs_done", [1, 2, 4])
def test_a_killed_training_continues_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs_done: int
) -> None:
    snapshot, config = two_tastes(), varied(CONFIG, pooled={"epochs": 3, "patience": 3, "refit_epochs": 2})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    trained(whole, snapshot, config)
    epoch, calls = Learner.epoch, 0

    def dying(self: Learner, corpus: Corpus, *, phase: int, number: int) -> float:
        nonlocal calls
        calls += 1
        if calls == epochs_done + 1:
            raise _Killed
        return epoch(self, corpus, phase=phase, number=number)

    monkeypatch.setattr(Learner, "epoch", dying)
    with pytest.raises(_Killed):
        trained(killed, snapshot, config)
    assert (killed / CHECKPOINT_FILE).is_file()
    trained(killed, snapshot, config)
    assert calls == 1 + 5
    assert files_of(killed) == files_of(whole)
    assert not (killed / CHECKPOINT_FILE).exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"pooled": {"epochs": 20, "patience": 2, "refit_epochs": 0}},
        {
            "tower": "sequence",
            "sequence": {"epochs": 20, "patience": 2, "refit_epochs": 0, "size": 16, "blocks": 1},
        },
    ],
    ids=["pooled", "sequence"],
)
def test_the_search_stops_when_validation_falls_and_keeps_the_weights_of_the_best_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, Any]
) -> None:
    """Epoch 2 is the best, epochs 3 and 4 are worse; the sixth would be better than all, and nobody waits for it."""
    scores = [0.5, 0.6, 0.4, 0.3, 0.2, 0.9]
    weights: list[dict[str, torch.Tensor]] = []

    def scored(self: Validation, model: TwoTower | SequenceTower, limit: int) -> float:
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return scores[len(weights) - 1]

    monkeypatch.setattr(Validation, "score", scored)
    folder = trained(tmp_path, two_tastes(), varied(CONFIG, **changes))
    assert len(weights) == 4
    with np.load(folder / WEIGHTS_FILE) as kept:
        for name, value in weights[1].items():
            assert_array_equal(kept[name], value.numpy(), name)
        assert any(not np.array_equal(kept[name], value.numpy()) for name, value in weights[3].items())


def test_a_checkpoint_of_another_configuration_is_not_continued(tmp_path: Path) -> None:
    snapshot, short = two_tastes(), varied(CONFIG, pooled={"epochs": 1})
    (tmp_path / "two_tower").mkdir()
    torch.save({"fingerprint": "of something else"}, tmp_path / CHECKPOINT_FILE)
    trained(tmp_path, snapshot, short)
    assert files_of(tmp_path) == files_of(trained(tmp_path / "fresh", snapshot, short))


def test_towers_continue_those_of_an_earlier_cut_off_by_item_id(tmp_path: Path) -> None:
    earlier = trained(tmp_path / "earlier", two_tastes())
    events: list[Event] = [(user, item, 20.0 - item, 4.0) for user in range(40) for item in range(1, 8)]
    genres = {-3: "Western", **dict.fromkeys(range(1, 21), "Drama|Comedy")}
    still = varied(CONFIG, pooled={"learning_rate": 1e-9})
    later = trained(tmp_path / "later", snapshot_of(events, genres), still, initial=earlier)
    with np.load(earlier / WEIGHTS_FILE) as before, np.load(later / WEIGHTS_FILE) as after:
        assert after["item_ids"].tolist() == [-3, *range(1, 21)]
        assert_allclose(after["items.id_embedding.weight"][1:], before["items.id_embedding.weight"], atol=1e-5)
        columns = {name: column for column, name in enumerate(after["content_names"].tolist())}
        old = {name: column for column, name in enumerate(before["content_names"].tolist())}
        for name in ("genre Drama", "decade 1990"):
            assert_allclose(
                after["items.content_projection.weight"][:, columns[name]],
                before["items.content_projection.weight"][:, old[name]],
                atol=1e-5,
            )


def test_towers_of_another_shape_or_place_cannot_be_continued(tmp_path: Path) -> None:
    earlier = trained(tmp_path / "earlier", two_tastes(), varied(CONFIG, pooled={"epochs": 1}))
    with pytest.raises(DataMissing, match="this configuration needs"):
        trained(tmp_path / "wide", two_tastes(), varied(CONFIG, pooled={"embedding_size": 4}), initial=earlier)
    with pytest.raises(DataMissing, match="no towers to continue"):
        trained(tmp_path / "none", two_tastes(), initial=tmp_path / "nowhere")
    with np.load(earlier / WEIGHTS_FILE) as saved:
        arrays = {name.replace("id_embedding", "identity"): saved[name] for name in saved.files}
    np.savez(earlier / WEIGHTS_FILE, **arrays)
    with pytest.raises(DataMissing, match=r"no items\.id_embedding\.weight, which this configuration needs"):
        trained(tmp_path / "old", two_tastes(), initial=earlier)


def test_a_checkpoint_of_other_names_is_not_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = two_tastes()
    side = ItemSideData.of(snapshot.catalogue)
    before = fingerprint(snapshot, CONFIG, side, None)
    assert fingerprint(snapshot, CONFIG, side, None) == before
    monkeypatch.setattr(checkpoint, "_FORMAT", checkpoint._FORMAT + 1)
    assert fingerprint(snapshot, CONFIG, side, None) != before


def test_trains_where_nobody_can_be_validated_and_without_values(tmp_path: Path) -> None:
    events: list[Event] = [(user, 1 + user % 3, 1.0) for user in range(12)]
    folder = trained(tmp_path, snapshot_of(events, dict.fromkeys(range(1, 4), "")))
    assert sorted(ask(folder)) == [1, 2, 3]


def test_says_that_there_are_no_events(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match="no events up to"):
        trained(tmp_path, snapshot_of([], {1: "Any"}))


def test_all_vectors_come_as_parquet(tmp_path: Path) -> None:
    snapshot = two_tastes(4)
    folder = trained(tmp_path, snapshot, varied(CONFIG, pooled={"epochs": 1}))
    items, users = (pq.read_table(folder / "two_tower" / f"{name}.parquet") for name in ("items", "users"))
    assert_array_equal(items["item_id"].to_numpy(), snapshot.items.item_ids)
    assert_array_equal(np.asarray(items["vector"].to_pylist(), np.float32), np.load(folder / VECTORS_FILE))
    assert_array_equal(users["user_id"].to_numpy(), snapshot.user_ids)
    channel = VectorChannel.open(folder)
    queries = [RecallQuery(snapshot.history(user_id).sequence(), NOW, 1) for user_id in snapshot.user_ids.tolist()]
    served = channel._tower.vectors(queries, channel.catalogue)
    assert_allclose(np.asarray(users["vector"].to_pylist(), np.float32), served, atol=1e-5)


def test_padding_changes_no_vector_and_no_history_is_well_defined() -> None:
    snapshot = two_tastes(4)
    model = new_model(Content.of(snapshot.catalogue), snapshot.events, CONFIG).eval()
    latent, _ = model.items(torch.arange(20))
    rows, values = torch.tensor([[1, 2]]), torch.tensor([[4.0, float("nan")]])
    ages, weights = torch.tensor([[10.0, 5.0]]), torch.ones(1, 2)
    short = model.users(latent[rows], Histories(rows, values, ages, weights))
    padded = [torch.nn.functional.pad(part, (3, 0)) for part in (rows, values, ages, weights)]
    assert_allclose(model.users(latent[padded[0]], Histories(*padded)).detach(), short.detach(), atol=1e-6)
    nothing = Histories(rows, values, ages, torch.zeros(1, 2))
    cold = model.users(latent[rows], nothing)
    assert torch.isfinite(cold).all()
    other = model.users(latent[rows + 5], Histories(rows + 5, values + 1, ages, torch.zeros(1, 2)))
    assert_allclose(cold.detach(), other.detach(), atol=1e-6)


def test_content_is_genres_and_decade() -> None:
    snapshot = snapshot_of([], {1: "A|B", 2: "", 3: "B"}, years={1: 1999, 2: NO_YEAR, 3: 1700})
    content = Content.of(snapshot.catalogue)
    named = [
        {name: value for name, value in zip(content.names, row, strict=True) if value}
        for row in content.matrix.tolist()
    ]
    assert named == [
        {"genre A": 0.5, "genre B": 0.5, "decade 1990": 1.0},
        {"decade unknown": 1.0},
        {"genre B": 1.0, "decade 1890": 1.0},
    ]


def test_id_dropout_hides_ids_in_training_only() -> None:
    snapshot = two_tastes(4)
    tower = ItemTower(Content.of(snapshot.catalogue), varied(CONFIG, pooled={"id_dropout": 0.5}))
    torch.manual_seed(0)
    content = tower.content_projection(tower.content)
    latent, _ = tower.train()(torch.arange(20))
    hidden = torch.isclose(latent, content).all(dim=1)
    assert 0 < int(hidden.sum()) < 20
    assert not torch.isclose(tower.eval()(torch.arange(20))[0], content).all(dim=1).any()


def test_validation_scores_what_users_do_later() -> None:
    snapshot = two_tastes()
    corpus = Corpus.of(snapshot.events, 20, NOW - 17 * DAY, CONFIG)
    validation = Validation.after(corpus, snapshot.events, CONFIG)
    assert len(validation.users) == 40
    learner = Learner(new_model(Content.of(snapshot.catalogue), corpus.events, CONFIG), CONFIG, CPU)
    before = validation.score(learner.best, 200)
    for number in range(3):
        learner.epoch(corpus, phase=0, number=number)
    assert validation.score(learner.best, 200) > max(before, 0.6)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="epoch_count"):
        TwoTowerConfig.model_validate({"epoch_count": 3})


def test_the_device_is_chosen_or_named() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
