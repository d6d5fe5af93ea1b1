"""Re-ranking end to end: what the curve chooses is what is served, on steps that were there before."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from offline.commands.rerank import RerankCurveConfig, rerank
from offline.evaluation.evaluate import RERANKED
from offline.evaluation.reranking.lists import RerankConfig
from offline.local.serve import served
from offline.studies.rerank.curve import WEIGHTS
from offline.studies.rerank.result import RerankResult
from offline.workflow.workflow import Workflow
from tests.integration.test_equality import MAX_REQUESTS, PATIENT, first, parity, replayed
from tests.integration.work import finished_steps, stages

pytestmark = [pytest.mark.integration]


def copied(trained: Workflow, root: Path) -> Path:
    """A data root with the tables and steps of the small system, and no bundles."""
    shutil.copytree(
        trained.config.home,
        root / trained.config.dataset,
        symlinks=True,
        copy_function=os.link,
        ignore=shutil.ignore_patterns("bundles", "events", "*.lock"),
    )
    return root


@pytest.fixture(scope="module")
def reranked(trained: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The small system with exposure and calibration, its evaluation bundle published in a root of its own."""
    root = copied(trained, tmp_path_factory.mktemp("reranked"))
    wanted = RerankConfig(exposure=3.0, genre_calibration=2.0, users=300)
    workflow = Workflow(trained.config.model_copy(update={"root": root, "rerank": wanted}))
    before = finished_steps(workflow.config.home).keys()
    workflow.publish("evaluation")
    assert stages(finished_steps(workflow.config.home).keys() - before) <= {"exposure", "models"}
    return workflow


@pytest.fixture(scope="module")
def gateway(reranked: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The five servers on that bundle."""
    folder = tmp_path_factory.mktemp("servers")
    with served(reranked.config.store("evaluation"), folder=folder, gateway_settings=PATIENT) as address:
        yield address


def test_five_processes_re_rank_as_one_does(reranked: Workflow, gateway: str) -> None:
    models, targets = reranked.models(), first(reranked.test_targets("all"), MAX_REQUESTS)
    answers = replayed(reranked, gateway, targets, "all")
    assert (answers.latency.errors, answers.latency.degraded) == ({}, 0)
    found = parity(models, answers, targets)
    assert found.equal_lists == 1.0, found
    assert found.score_difference <= 1e-5, found
    assert found.ndcg_difference == 0.0
    assert parity(replace(models, reranker=None), answers, targets).equal_entries < 0.99, "a broken one is seen"
    again = parity(models, replayed(reranked, gateway, targets, "all"), targets)
    assert again.equal_lists == 1.0, "and the same again"


def test_the_curve_chooses_on_validation_and_shows_what_is_then_served(
    trained: Workflow, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copied(trained, tmp_path / "root")
    home = root / trained.config.dataset
    before = finished_steps(home).keys()
    given = {**trained.config.model_dump(), "root": root, "out": tmp_path / "out", "results": tmp_path / "results"}
    given |= {"exposures": (0.0, 2.0, 4.0), "weights": WEIGHTS[:1], "coverage": 0.3}
    config = RerankCurveConfig(**{**given, "rerank": {"users": 300}})
    rerank(config)
    made = stages(finished_steps(home).keys() - before)
    assert made <= {"models", "ranker", "gateway"}, "those of the moment of validation; all else was there"
    files = {f"rerank-validation.{kind}" for kind in ("json", "png")}
    name = "rerank-temporal-raw-all.json"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*files, "rerank-chosen.json", name}
    result = RerankResult.load(tmp_path / "results" / name)
    assert (tmp_path / "results" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    best = max((point for point in result.curve if point.coverage >= 0.3), key=lambda point: point.ndcg.mean)
    assert result.settings == best.settings != ""
    assert [row.system for row in result.rows] == [RERANKED, "ranked", "popularity", "itemcf", "vector"]
    assert f"Chosen on validation, the highest NDCG@10 among those with coverage@10 of 0.3: `{best.settings}`." in (
        capsys.readouterr().out
    )
    chosen = json.loads((tmp_path / "out/rerank-chosen.json").read_text("utf-8"))["settings"]
    again = Workflow(config.offline().model_copy(update={"rerank": RerankConfig(**chosen)}))
    row = json.loads((again.evaluation("all").folder / "report/all.json").read_text("utf-8"))["rows"]
    (served_row,) = [found for found in row if (found["system"], found["group"]) == (RERANKED, "warm")]
    assert served_row["figures"]["ndcg@10"]["mean"] == pytest.approx(result.rows[0].ndcg.mean, abs=1e-6)
    assert served_row["coverage"]["10"] == pytest.approx(result.rows[0].coverage, abs=1e-6)
    (plain,) = [found for found in row if (found["system"], found["group"]) == ("ranked", "warm")]
    assert plain["figures"]["ndcg@10"]["mean"] == pytest.approx(result.rows[1].ndcg.mean, abs=1e-6)
