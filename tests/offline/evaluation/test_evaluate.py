"""Systems whose quality is known are measured as what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.pipeline.fallback import Fallback
from offline.dataset.splits import Window
from offline.evaluation.evaluate import (
    BootstrapConfig,
    Lists,
    Models,
    evaluate,
    lists_of,
    measure,
    produce_lists,
    served_lists,
)
from offline.evaluation.parity import compare
from offline.evaluation.results import MIN_WARM_USERS
from offline.metrics.ranking import NO_ITEM, Relevant
from offline.protocols.targets import Targets, targets_of
from recsys.errors import ContractBroken
from tests.offline.tastes import DAY, ITEMS, NoiseChannel, TasteChannel, dataset_of_tastes, policy_of

WINDOW = Window(60 * DAY, 100 * DAY)
DATASET = dataset_of_tastes()
SNAPSHOT = DATASET.snapshot(WINDOW.cutoff)
CONFIG = BootstrapConfig(resamples=50)


def models() -> Models:
    catalogue = SNAPSHOT.catalogue
    fallback = Fallback(catalogue, catalogue.item_ids)
    return Models(SNAPSHOT, [NoiseChannel(catalogue), TasteChannel(catalogue)], None, policy_of(), fallback)


@pytest.fixture(scope="module")
def targets() -> Targets:
    return targets_of("all", DATASET, SNAPSHOT, WINDOW)


def test_each_channel_is_evaluated_alone_and_all_of_them_together(targets: Targets) -> None:
    lists = produce_lists(models(), targets)
    assert list(lists) == ["noise", "taste", "blended"]
    for system, made in lists.items():
        for row, request in enumerate(targets.requests):
            shown = made.item_ids[row][made.item_ids[row] != NO_ITEM]
            assert not np.isin(shown, request.history.item_ids).any(), system
            assert len(np.unique(shown)) == len(shown)
    warm = int(np.flatnonzero(targets.warm)[0])
    parity = targets.requests[warm].history.item_ids[0] % 2
    assert (lists["taste"].item_ids[warm][:10] % 2 == parity).all()
    assert not (lists["noise"].item_ids[warm][:10] % 2 == parity).all()


def test_a_channel_alone_is_not_filled_up_but_what_is_served_is() -> None:
    dataset = replace(DATASET, interactions=DATASET.interactions.take(DATASET.interactions.user_ids > 0))
    cold = Window(int(dataset.interactions.timestamps[0]) - 1, WINDOW.until)
    snapshot = dataset.snapshot(WINDOW.cutoff)
    everybody = targets_of("all", dataset, dataset.snapshot(cold.cutoff), cold)
    assert not everybody.warm.any()
    asked = replace(models(), snapshot=snapshot)
    lists = produce_lists(asked, everybody)
    assert (lists["taste"].item_ids == NO_ITEM).all()
    assert (lists["blended"].item_ids[:, :50] != NO_ITEM).all()


def test_figures_are_those_of_the_lists(targets: Targets) -> None:
    result = evaluate(models(), targets, name="tastes", kind="all", config=CONFIG)
    assert {(row.system, row.group) for row in result.rows} == {(s, "warm") for s in ("noise", "taste", "blended")}
    taste, noise = result.row("taste"), result.row("noise")
    assert taste.figures["ndcg@50"].mean > noise.figures["ndcg@50"].mean
    assert taste.figures["recall@50"].mean == 1.0
    assert taste.users == taste.requests == len(targets)
    figure = taste.figures["ndcg@10"]
    assert figure.low < figure.mean < figure.high
    assert taste.coverage[5] < noise.coverage[50]
    assert set(taste.figures) == {
        f"{m}@{k}"
        for m in ("recall", "normalised_recall", "precision", "ndcg", "hit_rate", "map", "mrr")
        for k in (5, 10, 20, 50, 100)
    }


def test_warm_and_cold_users_are_apart() -> None:
    early = Window(5 * DAY, 100 * DAY)
    snapshot = DATASET.snapshot(early.cutoff)
    targets = targets_of("all", DATASET, snapshot, early)
    asked = replace(models(), snapshot=snapshot)
    result = evaluate(asked, targets, name="tastes", kind="all", config=CONFIG)
    warm, cold = result.row("taste", "warm"), result.row("taste", "cold")
    assert (warm.users, cold.users) == (int(targets.warm.sum()), int((~targets.warm).sum()))
    assert warm.figures["recall@50"].mean > 0
    assert cold.figures["recall@50"].mean == 0


def test_perfect_lists_have_perfect_figures(targets: Targets) -> None:
    wanted = np.split(targets.relevant.item_ids, targets.relevant.indptr[1:-1])
    made = lists_of([(item_ids, np.linspace(1, 0, len(item_ids))) for item_ids in wanted])
    result = measure({"oracle": made}, SNAPSHOT, targets, name="tastes", kind="all", config=CONFIG)
    figures = result.row("oracle").figures
    assert figures["ndcg@10"].mean == figures["map@10"].mean == figures["mrr@5"].mean == 1.0
    assert figures["ndcg@10"].low == figures["ndcg@10"].high == 1.0


def test_the_report_says_what_was_measured(targets: Targets, tmp_path: Path) -> None:
    result = evaluate(models(), targets, name="tastes", kind="all", config=CONFIG)
    result.save(tmp_path)
    fields = json.loads((tmp_path / "all.json").read_text())
    assert (fields["dataset"], fields["kind"], fields["cutoff"]) == ("tastes", "all", WINDOW.cutoff)
    assert fields["rows"][0]["figures"]["ndcg@10"]["mean"] == result.rows[0].figures["ndcg@10"].mean
    markdown, table = (tmp_path / "all.md").read_text(), result.table()
    for text in (markdown, table):
        assert "too few: " in text
        assert f"{result.row('taste').figures['ndcg@10'].mean:.4f}" in text
    assert result.headline()["taste.warm.ndcg@10"] == pytest.approx(
        result.row("taste").figures["ndcg@10"].mean, abs=1e-6
    )


def crowd(targets: Targets, warm: int) -> Targets:
    """The same requests over and over, each as another user's: `warm` warm users and one cold."""
    users = np.arange(warm + 1, dtype=np.int64)
    rows = users % len(targets)
    wanted = np.split(targets.relevant.item_ids, targets.relevant.indptr[1:-1])
    requests, relevant = [targets.requests[row] for row in rows], Relevant.of([wanted[row] for row in rows])
    return Targets(requests, users, users < warm, relevant)


@pytest.mark.parametrize("warm", [MIN_WARM_USERS - 1, MIN_WARM_USERS])
def test_too_few_warm_users_are_remarked_on_and_enough_are_not(targets: Targets, warm: int) -> None:
    asked = crowd(targets, warm)
    made = lists_of([(request.history.item_ids, [1.0] * len(request.history)) for request in asked.requests])
    result = measure({"past": made}, SNAPSHOT, asked, name="tastes", kind="all", config=CONFIG)
    few = warm < MIN_WARM_USERS
    assert [(row.group, row.users, row.too_few) for row in result.rows] == [("warm", warm, few), ("cold", 1, False)]
    for text in (result.markdown(), result.table()):
        assert ("too few: " in text) == few


def test_successive_lists_follow_the_history(targets: Targets) -> None:
    successive = targets_of("successive", DATASET, SNAPSHOT, WINDOW)
    assert len(successive) > len(targets)
    made = served_lists(models(), successive)
    for row in (0, 50, len(successive) - 1):
        history = successive.requests[row].history
        assert not np.isin(made.item_ids[row], history.item_ids).any()


def changed(lists: Lists, row: int, place: int, item_id: int) -> Lists:
    item_ids = lists.item_ids.copy()
    item_ids[row, place] = item_id
    return replace(lists, item_ids=item_ids)


def test_agreement_counts_entries_lists_and_scores(targets: Targets) -> None:
    lists = served_lists(models(), targets)
    same = compare(lists, lists, targets)
    assert (same.equal_entries, same.equal_lists, same.score_difference, same.ndcg_difference) == (1, 1, 0, 0)
    other = compare(lists, changed(lists, 3, 0, ITEMS + 1), targets)
    assert other.equal_entries == pytest.approx(1 - 1 / (10 * len(targets)))
    assert other.equal_lists == pytest.approx(1 - 1 / len(targets))
    beyond = compare(lists, changed(lists, 3, 30, ITEMS + 1), targets)
    assert beyond.equal_entries == 1
    shifted = compare(lists, replace(lists, scores=lists.scores + np.float32(0.25)), targets)
    assert shifted.score_difference == pytest.approx(0.25)
    with pytest.raises(ContractBroken, match="cannot be compared"):
        compare(lists, lists_of([]), targets)
