"""EASE, cosine, the strongest links, and both in one model within the memory that is allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from implicit.nearest_neighbours import bm25_weight  # type: ignore[import-untyped]
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.sparse import csc_array, csr_matrix, random_array

from offline.dataset.interactions import Interactions, Snapshot
from offline.recall.interaction_matrix import interaction_matrix
from offline.recall.itemcf import ease, similarity
from offline.recall.itemcf.ease import ease_weights, from_users, row_blocks
from offline.recall.itemcf.neighbours import NeighbourLists
from offline.recall.itemcf.similarity import Similarity, bm25, similarity_blocks
from offline.recall.itemcf.training import ItemCFConfig, _similarity_scale, ease_capacity, train
from recall_server.channels.evidence import ValueScale
from recall_server.channels.itemcf import ItemCFChannel
from recsys.domain import EventType, History, RecallQuery
from recsys.errors import DataError
from recsys.kernels import COMPILED
from tests.recall_server.conformance import NOW, history_of
from tests.recall_server.toy import checkerboard, snapshot_of


@pytest.fixture(scope="module")
def matrix() -> csc_array:
    """float32[300, 40]: random evidence."""
    rng = np.random.default_rng(3)
    return csc_array(random_array((300, 40), density=0.2, rng=rng, dtype=np.float32))


def dense_cosine(matrix: csc_array, shrink: float) -> NDArray[np.float32]:
    """The formula, in full."""
    dense = matrix.toarray()
    norms = np.linalg.norm(dense, axis=0)
    cosine: NDArray[np.float32] = dense.T @ dense / (np.outer(norms, norms) + shrink)
    np.fill_diagonal(cosine, 0)
    return cosine


@pytest.mark.parametrize("users", [300, 40, 5, 1])
def test_ease_is_the_closed_form_with_many_users_and_with_few(matrix: csc_array, users: int) -> None:
    some = csc_array(matrix[:users])
    assert from_users(*some.shape) == (users <= 5)
    dense = some.toarray().astype(np.float64)
    precision = np.linalg.inv(dense.T @ dense + 5 * np.eye(40))
    expected = precision / -np.diag(precision)
    np.fill_diagonal(expected, 0)
    assert_allclose(ease_weights(some, 5), expected, atol=1e-5)


def test_the_five_lines_that_explain_ease_compute_it(matrix: csc_array) -> None:
    lines = [line.strip() for line in (ease.__doc__ or "").splitlines() if line.startswith("    ")]
    assert len(lines) == 5
    names = {"np": np, "X": matrix.toarray().astype(np.float64), "n": matrix.shape[1], "reg": 5.0}
    exec("\n".join(lines), names)
    assert_allclose(ease_weights(matrix, 5.0), names["weights"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 2), (2, 16)])
def test_ease_names_the_setting_when_it_cannot_be_solved(shape: tuple[int, int]) -> None:
    twins = csc_array(np.ones(shape, np.float32))
    with pytest.raises(DataError, match="reg 1e-20; raise itemcf reg"):
        ease_weights(twins, 1e-20)


@pytest.mark.parametrize("n", [1, 2_000, 10_000])
def test_row_blocks_cover_every_row_once(n: int) -> None:
    rows = [row for block in row_blocks(n) for row in range(block.start, block.stop)]
    assert rows == list(range(n))


@pytest.mark.parametrize("block_entries", [1, 100, 10_000])
def test_cosine_is_the_formula_whatever_the_blocks(matrix: csc_array, block_entries: int) -> None:
    sources, targets = np.arange(3, 40), np.arange(0, 40, 2)
    expected = dense_cosine(matrix, 7)
    expected[:, 1::2] = 0
    found = np.zeros((40, 40), np.float32)
    for block, found_here in similarity_blocks(Similarity(matrix, 7), sources, targets, block_entries=block_entries):
        found[sources[block]] = found_here.toarray()
    assert_allclose(found[3:], expected[3:], rtol=1e-5, atol=1e-7)


@pytest.mark.skipif(not COMPILED, reason="needs the compiled kernels")
@pytest.mark.parametrize("shrink", [7.0, None])
@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("values", ["any", "ties", "some 0"])
def test_the_kernel_finds_to_the_last_bit_what_sparse_products_give(
    matrix: csc_array, shrink: float | None, k: int, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "_AT_ONCE", 7)
    monkeypatch.setattr(similarity, "_UNREAD", 2)
    told = matrix.copy()
    if values != "any":
        told.data = np.ceil(told.data * 3).astype(np.float32) - (values == "some 0")
    sources, targets = np.arange(3, 40), np.arange(0, 40, 2)
    both = [
        list(form(Similarity(told, shrink), sources, targets, k, 0.37))
        for form in (similarity._compiled, similarity._reference)
    ]
    for (source, rows, weights), (expected_source, expected_rows, expected) in zip(*both, strict=True):
        assert source == expected_source
        assert_array_equal(rows, expected_rows)
        assert weights.tobytes() == expected.tobytes()
    assert max(len(rows) for _, rows, _ in both[0]) == min(k, len(targets))


def test_neighbour_lists_keep_the_strongest_positive_links() -> None:
    lists = NeighbourLists(6, 3)
    lists.put(0, np.asarray([1, 2, 3, 4, 5]), np.asarray([0.1, -9, 0.3, 0.3, 0.3], np.float32))
    lists.put(1, np.asarray([0, 4]), np.asarray([0.2, 0.0], np.float32))
    lists.put(1, np.asarray([2, 3, 5]), np.asarray([0.1, 0.2, 0.4], np.float32))
    targets, weights = lists.arrays()
    assert targets.tolist() == [[3, 4, 5], [0, 3, 5], *[[6, 6, 6]] * 4]
    assert_allclose(weights, [[0.3, 0.3, 0.3], [0.2, 0.2, 0.4], *[[0, 0, 0]] * 4], rtol=1e-6)


def test_the_model_holds_ease_cut_to_the_strongest(tmp_path: Path) -> None:
    snapshot = checkerboard(12, 16)
    train(snapshot, ItemCFConfig(reg=2, n_neighbours=3), tmp_path)
    dense = np.zeros((12, 16))
    dense[snapshot.events.user_rows, snapshot.events.item_rows] = 1
    full = np.maximum(ease_weights(csc_array(dense.astype(np.float32)), 2), 0)
    targets, weights = (np.load(tmp_path / f"itemcf/{name}.npy") for name in ("neighbours", "weights"))
    assert targets.shape == weights.shape == (16, 3)
    for row in range(16):
        strongest = np.sort(full[row])[::-1][:3]
        assert_allclose(np.sort(weights[row])[::-1], strongest, rtol=1e-4)
        linked = targets[row] < 16
        assert_allclose(full[row, targets[row, linked]], weights[row, linked], rtol=1e-4)


@pytest.mark.parametrize("ease_items", [0, 7, 16])
def test_cosine_takes_over_where_ease_ends(tmp_path: Path, ease_items: int) -> None:
    snapshot = checkerboard(12, 16)
    snapshot.catalogue.save(tmp_path)
    train(snapshot, ItemCFConfig(reg=1, shrink=1, ease_items=ease_items), tmp_path)
    channel = ItemCFChannel.open(tmp_path)
    assert channel.facts.ease_items == ease_items
    for user in range(12):
        taken = [item + 1 for item in range(16) if (user + item) % 2 == 0 and user != item]
        [found] = channel.recall([RecallQuery(history_of(taken), NOW, 16)])
        assert all((item_id - 1 + user) % 2 == 0 for item_id in found.item_ids.tolist())
        assert {item + 1 for item in range(16) if (user + item) % 2 == 0} == set(found.item_ids.tolist())


def test_cosine_is_brought_to_the_scale_of_ease(matrix: csc_array) -> None:
    covered = np.arange(0, 40, 2)
    weights = (3 * dense_cosine(matrix, 7))[np.ix_(covered, covered)]
    assert _similarity_scale(Similarity(matrix, 7), covered, weights) == pytest.approx(3, rel=1e-5)
    assert _similarity_scale(Similarity(matrix, 7), covered, -weights) == 1


def test_better_rated_items_are_stronger_evidence(tmp_path: Path) -> None:
    events = [(user, item, 1.0, 5.0) for user in range(30) for item in (1, 2)]
    events += [(user, item, 1.0, 1.0) for user in range(30, 60) for item in (1, 3)]
    snapshot = snapshot_of(events, {1: "", 2: "", 3: "", 4: ""})
    snapshot.catalogue.save(tmp_path)
    train(snapshot, ItemCFConfig(reg=10), tmp_path)
    channel = ItemCFChannel.open(tmp_path)
    [found] = channel.recall([RecallQuery(history_of([1]), NOW, 5)])
    assert found.item_ids.tolist() == [2, 3]
    assert (channel.facts.value_scale.low, channel.facts.value_scale.high) == (1, 5)


def test_a_set_without_values_or_without_events_trains(tmp_path: Path) -> None:
    genres = {1: "", 2: "", 3: ""}
    train(snapshot_of([(1, 1, 1.0), (1, 2, 1.0), (2, 1, 1.0)], genres), ItemCFConfig(reg=1), tmp_path)
    assert np.load(tmp_path / "itemcf/neighbours.npy")[:2, 0].tolist() == [1, 0]
    empty = snapshot_of([], genres)
    empty.catalogue.save(tmp_path)
    train(empty, ItemCFConfig(), tmp_path)
    [found] = ItemCFChannel.open(tmp_path).recall([RecallQuery(history_of([1]), NOW, 5)])
    assert len(found) == 0


def test_an_empty_catalogue_trains_and_opens(tmp_path: Path) -> None:
    empty = snapshot_of([], {})
    empty.catalogue.save(tmp_path)
    train(empty, ItemCFConfig(), tmp_path)
    [found] = ItemCFChannel.open(tmp_path).recall([RecallQuery(history_of([1]), NOW, 5)])
    assert len(found) == 0


def test_memory_decides_how_many_items_ease_covers() -> None:
    assert ease_capacity(ItemCFConfig(ease_items=30)) == 30
    assert ease_capacity(ItemCFConfig()) == 20_000, "the default limit of items fits the default memory"
    # n² cells of 4 bytes, and an eighth more for the side of the users, next to 256 MiB of blocks.
    assert 4 * 1.125 * ease_capacity(ItemCFConfig(max_memory_mib=300)) ** 2 == pytest.approx(44 * 2**20, rel=1e-3)


def test_every_cutoff_has_ease_for_as_many_items(tmp_path: Path) -> None:
    """What is evaluated and what is served are models of one kind, however many events each has seen."""
    world, config = checkerboard(12, 600), ItemCFConfig(max_memory_mib=257)
    rated = ease_capacity(config)
    assert rated < 600
    for name, users in (("evaluated", 7), ("served", 12)):
        ends = world.indptr[: users + 1]
        columns = {
            column: getattr(world, column)[: ends[-1]] for column in ("item_ids", "timestamps", "types", "values")
        }
        train(replace(world, user_ids=world.user_ids[:users], indptr=ends, **columns), config, tmp_path / name)
        assert json.loads((tmp_path / name / "itemcf/facts.json").read_text())["ease_items"] == rated


def test_where_no_matrix_fits_all_links_are_cosines(tmp_path: Path) -> None:
    world = checkerboard(12, 16)
    for name, config in {"little": {"max_memory_mib": 100}, "none": {"ease_items": 0}}.items():
        train(world, ItemCFConfig.model_validate(config), tmp_path / name)
    little, none = (np.load(tmp_path / name / "itemcf/weights.npy") for name in ("little", "none"))
    assert_array_equal(little, none)
    assert little.any()


def test_config_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError, match="extra"):
        ItemCFConfig.model_validate({"lambda": 7})


_LARGE_SET = """
import re, resource, sys
from pathlib import Path
import numpy as np
from offline.dataset.interactions import Interactions, Items, Snapshot
from offline.recall.itemcf.training import ItemCFConfig, train

users, items, events, limit = 20_000, 87_000, 1_500_000, int(sys.argv[2])
rng = np.random.default_rng(5)
rated = np.minimum((items * rng.random(events) ** 3).astype(np.int64), items - 1)
people = np.sort(rng.integers(0, users, events))
texts = np.full(items, "", np.object_)
catalogue = Items(
    np.arange(items), texts, texts, np.full(items, 1990, np.int16), np.zeros(items, np.int64),
    np.zeros((items, 0), np.bool_), (), None, *np.full((2, items), np.nan, np.float32),
)
ratings = rng.integers(1, 6, events).astype(np.float32)
order = np.arange(events)
interactions = Interactions(people, rated, order, np.ones(events, np.int8), ratings)
snapshot = Snapshot.build("large", events, catalogue, interactions)
held = len(snapshot.events.item_rows)
del people, rated, order, ratings, interactions
before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
train(snapshot, ItemCFConfig(max_memory_mib=limit, n_neighbours=50), Path(sys.argv[1]))
# VmHWM, not ru_maxrss: the latter starts at what the process that started this one had
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print((peak - before) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_eighty_seven_thousand_items_train_within_the_limit(tmp_path: Path) -> None:
    limit = 600
    finished = subprocess.run(
        [sys.executable, "-c", _LARGE_SET, str(tmp_path), str(limit)], check=True, capture_output=True, text=True
    )
    added, on_top = float(finished.stdout), (1_500_000 * 56 + 87_000 * 50 * 8) / 2**20
    assert limit / 2 < added <= limit + on_top
    facts = (tmp_path / "itemcf/facts.json").read_text()
    assert '"items": 87000' in facts
    assert '"ease_items": 0' not in facts


def test_bm25_weighs_as_implicit_does_and_links_by_inner_products(tmp_path: Path) -> None:
    snapshot = checkerboard(12, 16)
    matrix = csc_array(interaction_matrix(snapshot, ValueScale(low=0, high=0, floor=1)))
    reference = bm25_weight(csr_matrix(matrix).T, K1=2, B=0.5).toarray()
    expected = reference @ reference.T
    np.fill_diagonal(expected, 0)
    weighted = bm25(matrix, k1=2, b=0.5)
    [(_, similarity)] = similarity_blocks(Similarity(weighted, None), np.arange(16), np.arange(16))
    assert_allclose(similarity.toarray(), expected, rtol=1e-5)
    config = ItemCFConfig(similarity="bm25", bm25_k1=2, bm25_b=0.5, ease_items=0, n_neighbours=3)
    snapshot.catalogue.save(tmp_path)
    train(snapshot, config, tmp_path)
    channel = ItemCFChannel.open(tmp_path)
    [found] = channel.recall([RecallQuery(History.of([1], [snapshot.cutoff]), snapshot.cutoff, 3)])
    assert_allclose(found.scores, np.sort(expected[0])[::-1][:3], rtol=1e-5)


def test_what_is_no_evidence_is_not_in_the_matrix() -> None:
    snapshot = checkerboard(12, 16)
    everything = interaction_matrix(snapshot, ValueScale(low=0, high=0, floor=1))
    values = np.where(np.arange(len(snapshot.values)) % 3 == 0, 2, 5).astype(np.float32)
    rated = replace(snapshot, values=values)
    liked = interaction_matrix(rated, ValueScale(low=1, high=5, floor=1, least=4))
    assert liked.nnz == np.count_nonzero(values == 5) < everything.nnz
    assert set(liked.data) == {1.0}


def test_the_matrix_leaves_the_events_as_they_are() -> None:
    """Of several events of one item it makes one, and of those without evidence none: not so the events themselves."""
    world = checkerboard(12, 16)
    users, n = np.repeat(world.user_ids, np.diff(world.indptr)), 2 * len(world.item_ids)
    twice = Interactions(
        np.tile(users, 2),
        np.tile(world.item_ids, 2),
        np.concatenate([world.timestamps, world.timestamps + 1]),
        np.full(n, EventType.CLICK, np.int8),
        np.where(np.arange(n) % 3 == 0, 2, 5).astype(np.float32),
    )
    snapshot = Snapshot.build("clicks", world.cutoff + 1, world.items, twice)
    before = {name: getattr(snapshot.events, name).copy() for name in ("indptr", "item_rows", "values", "weights")}
    matrix = interaction_matrix(snapshot, ValueScale(low=1, high=5, floor=0, least=4))
    assert matrix.nnz < len(snapshot.item_ids)
    for name, values in before.items():
        assert_array_equal(getattr(snapshot.events, name), values, err_msg=name)
