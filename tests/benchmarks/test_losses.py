"""The comparison of losses on a small shop: a row for each, runs that continue, and no use of the test."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import losses
import numpy as np
import pytest

from offline.dataset.interactions import Snapshot
from offline.recall.two_tower import training
from offline.recall.two_tower.objectives import ObjectiveName
from offline.studies.benchmark import losses as comparison
from offline.studies.benchmark.loss_result import METRICS, LossResult, losses_section, text_table
from offline.studies.benchmark.losses import LossesConfig, compare_losses, evaluate_variant, variants
from offline.workflow.workflow import Workflow
from tests.offline.shop import write_shop

SMALL = [
    "--dataset", "shop", "--two-tower.device", "cpu", "--two-tower.history-limit", "20", "--bootstrap.resamples", "20",
    "--two-tower.sequence.size", "8", "--two-tower.sequence.blocks", "1", "--two-tower.sequence.epochs", "1",
    "--two-tower.pooled.embedding-size", "8", "--two-tower.pooled.heads", "2", "--two-tower.pooled.hidden", "16",
    "--two-tower.pooled.epochs", "2", "--two-tower.pooled.min-examples", "64", "--two-tower.sequence.loss", "gbce",
]  # fmt: skip
FEW = 20
EVERY_ROW = [
    ("sequence", "gbce", "512 uniform, t = 0.75"),
    ("sequence", "cross-entropy", "every item"),
    ("sequence", "sampled-softmax", "512 uniform, logQ"),
    ("sequence", "mse", "512 uniform"),
    ("sequence", "bpr", "512 uniform"),
    ("sequence", "mse+bpr", "512 uniform"),
    ("pooled", "sampled-softmax", "every item"),
    ("pooled", "sampled-softmax", f"in-batch and {FEW} uniform, logQ"),
]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (folder := tmp_path / "shop").mkdir()
    write_shop(folder)
    return folder


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LossesConfig]]:
    """Makes configurations; their workspaces are left to others at the end."""
    monkeypatch.setattr(comparison, "FEW_NEGATIVES", FEW)
    made: list[LossesConfig] = []

    def configure(folder: Path, root: Path) -> LossesConfig:
        made.append(LossesConfig.from_arguments([*SMALL, "--data-dir", str(folder), "--root", str(root)], "test"))
        return made[-1]

    yield configure
    for config in made:
        Workflow(config).workspace.release()


class Killed(Exception):
    """Stands for the end of the process."""


@dataclass
class Trainings:
    """What towers were trained on, in order."""

    seen: list[Snapshot] = field(default_factory=list)
    killed: int = 0
    """The training, from 1 on, that is killed."""


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    noted, train = Trainings(), training.train_channel

    def spy(snapshot: Snapshot, *rest: object, **options: object) -> None:
        noted.seen.append(snapshot)
        if len(noted.seen) == noted.killed:
            raise Killed
        train(snapshot, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_channel", spy)
    return noted


def test_every_loss_has_a_row_and_a_killed_run_goes_on(
    shop: Path,
    tmp_path: Path,
    configured: Callable[..., LossesConfig],
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, out = configured(shop, tmp_path / "data"), tmp_path / "results" / "losses.json"
    trainings.killed = 4
    with pytest.raises(Killed):
        compare_losses(config)
    first = compare_losses(config)
    assert len(trainings.seen) == len(EVERY_ROW) + 1, "only the one that was killed begins twice"
    arguments = [*SMALL, "--data-dir", str(shop), "--root", str(tmp_path / "data"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["losses.py", *arguments])
    losses.main()
    assert len(trainings.seen) == len(EVERY_ROW) + 1, "nothing is trained again"
    assert {row.loss for row in first.rows if row.tower == "sequence"} == set(get_args(ObjectiveName))
    check_rows(first)
    saved = LossResult.load(out)
    assert [row.figures["ndcg@10"].mean for row in saved.rows] == pytest.approx(
        [row.figures["ndcg@10"].mean for row in first.rows], abs=1e-6
    )
    printed, page = capsys.readouterr().out, losses_section(saved)
    for row in saved.rows:
        assert printed.count(row.negatives) == page.count(row.negatives) > 0
    assert f"```sh\n{saved.command}\n```" in page
    assert "--data-dir path/to/shop " in saved.command
    assert "--two-tower.sequence.size 8" in saved.command


def check_rows(result: LossResult) -> None:
    """Each has figures, and is compared with the usual loss of its own tower."""
    assert [(row.tower, row.loss, row.negatives) for row in result.rows] == EVERY_ROW
    assert [row.loss for row in result.rows if row.usual] == ["gbce", "sampled-softmax"]
    assert {(row.tower, row.epochs, row.refit_epochs) for row in result.rows} == {("sequence", 1, 1), ("pooled", 2, 1)}
    usual = {row.tower: row.figures["ndcg@10"].mean for row in result.rows if row.usual}
    assert len({row.figures["ndcg@10"].mean for row in result.rows}) > 2, "losses differ"
    for row in result.rows:
        assert set(row.figures) == set(METRICS)
        assert all(0 <= figure.low <= figure.mean <= figure.high <= 1 for figure in row.figures.values())
        own = row.figures["ndcg@10"].mean
        assert row.share == pytest.approx(own / usual[row.tower])
        assert row.difference.mean == pytest.approx(own - usual[row.tower])
        assert row.cpu_seconds is not None
        assert row.cpu_seconds > 0


def test_beside_a_usual_loss_that_finds_nothing_a_share_is_left_out(
    shop: Path, tmp_path: Path, configured: Callable[..., LossesConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(shop, tmp_path / "data")
    usual = evaluate_variant(config, variants(config.two_tower)[-1])
    nothing = replace(usual, variant=replace(usual.variant, usual=True), values=np.zeros_like(usual.values))
    monkeypatch.setattr(comparison, "variants", lambda towers: [nothing.variant])
    monkeypatch.setattr(comparison, "evaluate_variant", lambda config, variant: nothing)
    result = compare_losses(config)
    assert [row.share for row in result.rows] == [None]
    assert LossResult.load(result.save(tmp_path / "losses.json")).rows[0].share is None
    assert "nan" not in (tmp_path / "losses.json").read_text("utf-8").lower()
    assert "nan" not in text_table(result).lower()


def test_only_what_came_before_the_validation_window_is_learned_and_the_test_changes_nothing(
    shop: Path, tmp_path: Path, configured: Callable[..., LossesConfig], trainings: Trainings
) -> None:
    """Another shop, in which users take other items after T2: all else is the same, and so is what is found."""
    config = configured(shop, tmp_path / "data")
    parts = Workflow(config).split
    (other := tmp_path / "other").mkdir()
    with_other_items_after(shop, other, parts.test.cutoff)
    changed = configured(other, tmp_path / "data-of-other")
    first, second = variants(config.two_tower)[0], variants(config.two_tower)[-1]
    found = [evaluate_variant(config, first), evaluate_variant(changed, first), evaluate_variant(config, second)]
    assert found[0].measured.requests > 0
    np.testing.assert_array_equal(found[0].values, found[1].values)
    assert [snapshot.cutoff for snapshot in trainings.seen] == [parts.validation.cutoff] * 3
    assert max(snapshot.timestamps.max() for snapshot in trainings.seen) <= parts.validation.cutoff
    after = Workflow(changed).split.test_events
    assert not np.array_equal(after.item_ids, parts.test_events.item_ids), "the test is another one"


def with_other_items_after(shop: Path, folder: Path, moment: int) -> None:
    """Writes the log of `shop` with the items of later events drawn again."""
    with (shop / "interactions.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    later = [row for row in rows if int(row[2]) > moment]
    items = np.random.default_rng(5).permutation([row[1] for row in later]).tolist()
    for row, item in zip(later, items, strict=True):
        row[1] = item
    with (folder / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
