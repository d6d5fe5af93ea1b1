"""`offline rerank`: where its results go, and the command that makes them again."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.commands import rerank as rerank_command
from offline.commands.rerank import RerankCurveConfig, command_of, rerank
from offline.evaluation.reranking.lists import RerankConfig
from offline.studies.rerank.report import RerankReport
from offline.studies.rerank.result import RerankResult
from tests.offline.studies.toy_rerank import ToyWorkflow, a_result


def test_protocols_kinds_and_moments_stand_beside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five runs leave five results and five folders, none written over another."""
    folders = []

    def reported(workflow: ToyWorkflow, folder: Path, **_: object) -> RerankReport:
        folders.append(folder)
        return RerankReport(RerankConfig(), a_result().rows, a_result().curve, 7, 8)

    monkeypatch.setattr(rerank_command, "Workflow", ToyWorkflow)
    monkeypatch.setattr(rerank_command, "report_rerank", reported)
    common = ["--dataset", "toys", "--root", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    for change in (
        ["--split.protocol", "temporal"],
        ["--split.protocol", "temporal", "--targets", "last"],
        ["--split.protocol", "time-to-split"],
        ["--split.protocol", "leave-one-out", "--targets", "last"],
        ["--split.protocol", "leave-one-out", "--targets", "last", "--split.moment", "target"],
    ):
        rerank(RerankCurveConfig.from_arguments([*common, *change], "test"))
    names = [
        "temporal-{}all",
        "temporal-{}last",
        "time-to-split-{}all",
        "leave-one-out-{}last",
        "leave-one-out-{}last-asked-at-target",
    ]
    assert folders == [tmp_path / "data/toys/rerank" / name.format("") for name in names]
    saved = {path.stem: RerankResult.load(path) for path in (tmp_path / "results").iterdir()}
    assert set(saved) == {f"rerank-{name.format('toys-')}" for name in names}
    assert saved["rerank-leave-one-out-toys-last-asked-at-target"].moment == "target"
    title = "NDCG and coverage, leave-one-out, toys, targets last"
    printed = capsys.readouterr().out
    assert f"{title}: 7 warm users" in printed
    assert f"{title}, asked at the time of the target: 7 warm users" in printed
    given = RerankCurveConfig.from_arguments([*common, "--out", "elsewhere"], "test")
    assert given.folder("all") == Path("elsewhere")


def test_a_protocol_means_what_the_bench_made(tmp_path: Path) -> None:
    folder = tmp_path / "time-to-split-toys"
    folder.mkdir()
    (folder / "itemcf.toml").write_text("[itemcf]\nreg = 77.0\n")
    common = ["--dataset", "shop", "--data-dir", "some/toys", "--settings", str(tmp_path), "--rerank.exposure", "3"]
    bench = RerankCurveConfig.from_arguments(["--protocol", "time-to-split", *common, "--coverage", "0.4"], "test")
    assert (bench.split.protocol, bench.itemcf.reg) == ("time-to-split", 77.0)
    assert bench.offline().home == Path("data/benchmark/toys/shop")
    assert bench.offline().rerank == RerankConfig()
    assert command_of(bench) == (
        "python -m offline rerank --protocol time-to-split --dataset shop --data-dir path/to/toys "
        "--rerank.exposure 3.0 --coverage 0.4"
    )
    run = RerankCurveConfig.from_arguments([*common, "--split.protocol", "time-to-split"], "test")
    assert (run.split.protocol, run.itemcf.reg) == ("time-to-split", RerankCurveConfig().itemcf.reg)
    assert run.offline().home == Path("data/shop")
    assert "--split.protocol time-to-split" in command_of(run)
    described = RerankCurveConfig.from_arguments([*common, "--split.protocol", "time-to-split", "--test-curve"], "test")
    assert (described.test_curve, command_of(described)) == (True, command_of(run)), "it makes the same result"
