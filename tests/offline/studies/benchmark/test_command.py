"""The bench from its command to its table, on a small shop under every protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from offline.commands.cli import main
from offline.studies.benchmark.peers import PEERS
from offline.studies.benchmark.results import BenchmarkResult
from offline.studies.benchmark.rows import DIGEST_FILE
from offline.workflow.config import OfflineConfig
from offline.workflow.workflow import Workflow
from recsys.errors import DataError
from tests.offline.shop import LONELY_USER, log_of_the_shop
from tests.offline.tastes import ITEMS


@dataclass(frozen=True)
class CommandFacts:
    """Of a protocol on the shop, worked out here from its published definition."""

    rows: dict[str, int] | None
    """How many events each exported file of training rows has; None where that is not worked out."""
    warm: int
    """Users that the test asks for, with a history …"""
    cold: int = 0
    """… and without one."""


def facts_of(protocol: str) -> CommandFacts:
    """The part of each event is 0: what validation's models know, 1: also what the test's do, 2: the test."""
    log = log_of_the_shop()
    if protocol == "strong-generalisation":
        _, liked = np.unique(log.users[log.ratings > 3.5], return_counts=True)
        return CommandFacts(None, int(np.count_nonzero(liked >= 5) * 0.1))
    if protocol in ("time-to-split", "leave-one-out"):
        log = log.take(log.users != LONELY_USER)
    n, relevant = len(log.users), np.ones(len(log.users), np.bool_)
    if protocol == "leave-one-out":
        later = np.asarray([np.count_nonzero(log.users[place + 1 :] == user) for place, user in enumerate(log.users)])
        part = 2 - np.minimum(later, 2)
    elif protocol == "random-60-20-20":
        part, relevant = np.empty(n, np.int64), log.ratings >= 4
        part[np.random.default_rng(1).permutation(n)] = np.searchsorted([0.6 * n, 0.8 * n], np.arange(n), side="right")
    else:
        first, second = (log.times[int((n - 1) * share)] for share in (0.8, 0.9))
        part = (log.times > first).astype(np.int64) + (log.times > second)
    asked, known = np.unique(log.users[(part == 2) & relevant]), np.unique(log.users[part < 2])
    rows = {name: int(np.count_nonzero(part <= last)) for last, name in enumerate(("fit", "refit"))}
    return CommandFacts(rows, len(np.intersect1d(asked, known)), len(np.setdiff1d(asked, known)))


@pytest.mark.parametrize(
    ("protocol", "targets", "metric"),
    [
        ("temporal", None, "ndcg@10"),
        ("time-to-split", "all", "ndcg@10"),
        ("time-to-split", "last", "hit_rate@10"),
        ("leave-one-out", None, "hit_rate@10"),
        ("strong-generalisation", None, "normalised_recall@20"),
        ("random-60-20-20", None, "precision@10"),
    ],
)
def test_the_command_prints_and_saves_one_table(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str, targets: str | None, metric: str
) -> None:
    """Protocol facts, not scores."""
    main(
        [
            "benchmark", "--protocol", protocol, "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path),
            "--models", "popularity,itemcf,ease", "--peers-python", str(tmp_path / "absent"), "--tracking", "",
            "--results", str(tmp_path / "results"), "--settings", str(tmp_path / "settings"),
            "--serving.channels", "popularity,itemcf", "--bootstrap.resamples", "20",
            *(["--targets", targets] if targets else []),
        ]
    )  # fmt: skip
    (path,) = (tmp_path / "results").glob("*.json")
    result = BenchmarkResult.load(path)
    assert (result.protocol, result.dataset, result.metrics[0]) == (protocol, shop.name, metric)
    facts, cuts_time = facts_of(protocol), protocol in ("temporal", "time-to-split")
    apart = [group for group in (("warm users", facts.warm), ("cold users", facts.cold)) if cuts_time]
    table = ("all users", facts.warm + facts.cold)
    if cuts_time and targets != "last":
        table, *apart = apart
    assert ((result.group, result.users), result.requests) == (table, table[1])
    assert [(group.group, group.users) for group in result.apart] == apart
    assert all([row.system for row in group.rows] == ["popularity", "itemcf"] for group in result.apart)
    assert result.catalogue == ITEMS + (protocol in ("temporal", "random-60-20-20"))
    (rows,) = (tmp_path / "benchmark").rglob("peers/*/rows")
    exported = {name: pq.read_metadata(rows / f"{name}.parquet").num_rows for name in ("fit", "refit")}
    assert facts.rows is None or exported == facts.rows
    assert [(row.system, row.origin) for row in result.rows] == [
        ("ease", "peer"),
        ("popularity", "channel"),
        ("itemcf", "channel"),
        *((name, "peer") for name in PEERS[protocol] if name != "ease"),
    ]
    assert result.row("ease").note == "not run: make peers"
    assert {row.note for row in result.rows[3:]} == {"not run: not asked for"}
    found = result.row("itemcf")
    assert found.figures is not None
    assert found.cpu_seconds is not None
    assert 0 < found.figures["recall@50"].mean <= 1
    assert str(tmp_path) not in path.read_text(), "no folder of this machine"
    printed = capsys.readouterr().out
    assert printed.startswith(f"{protocol}, {shop.name}, targets ")
    assert f"{found.figures[metric].mean:.4f}" in printed


@pytest.mark.parametrize("protocol", ["leave-one-out", "strong-generalisation"])
def test_a_protocol_without_a_cut_in_time_has_a_ranker_too(shop: Path, tmp_path: Path, protocol: str) -> None:
    main(
        [
            "benchmark", "--protocol", protocol, "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path),
            "--models", "itemcf,blended,ranked", "--results", str(tmp_path), "--tracking", "", "--serving.channels",
            "popularity,itemcf", "--bootstrap.resamples", "20", "--lightgbm.max-rounds", "10",
            "--lightgbm.min-leaf-rows", "20",
        ]
    )  # fmt: skip
    result = BenchmarkResult.load(tmp_path / f"{protocol}-{shop.name}-{'last' if 'leave' in protocol else 'all'}.json")
    assert [(row.system, row.origin) for row in result.rows] == [
        ("itemcf", "channel"),
        ("blended", "ours"),
        ("ranked", "ours"),
    ]
    channel, ranked = (result.row(system).cpu_seconds for system in ("itemcf", "ranked"))
    assert channel is not None
    assert ranked is not None
    assert ranked > channel > 0


def test_a_second_command_with_other_models_is_refused_before_it_trains(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "benchmark", "--protocol", "temporal", "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path),
        "--results", str(tmp_path / "results"), "--tracking", "", "--serving.channels", "popularity,itemcf",
        "--bootstrap.resamples", "20",
    ]  # fmt: skip
    main([*arguments, "--models", "popularity"])
    (path,) = (tmp_path / "results").glob("*.json")
    saved, trained = path.read_text(), set((tmp_path / "benchmark").rglob("work/*"))
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--models", "itemcf", "--itemcf.reg", "7"])
    assert stopped.value.code == 2
    assert (
        f"{path}: the result there has figures that this one has not: popularity (channel)" in capsys.readouterr().err
    )
    assert (path.read_text(), set((tmp_path / "benchmark").rglob("work/*"))) == (saved, trained)
    main([*arguments, "--models", "popularity,itemcf"])
    assert [row.system for row in BenchmarkResult.load(path).rows] == ["popularity", "itemcf"]


def test_the_moment_of_requests_names_the_result_and_trains_no_channel_again(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "benchmark", "--protocol", "leave-one-out", "--dataset", "shop", "--data-dir", str(shop), "--root",
        str(tmp_path), "--models", "itemcf,ease", "--results", str(tmp_path / "results"), "--tracking", "",
        "--serving.channels", "popularity,itemcf", "--bootstrap.resamples", "20", "--peers-python",
        str(tmp_path / "absent"),
    ]  # fmt: skip
    main(arguments)
    trained = {path.name for path in (tmp_path / "benchmark").rglob("work/*")}
    main([*arguments, "--split.moment", "target"])
    assert {path.name for path in (tmp_path / "benchmark").rglob("work/*")} == trained
    name = f"leave-one-out-{shop.name}-last"
    usual = BenchmarkResult.load(tmp_path / "results" / f"{name}.json")
    as_served = BenchmarkResult.load(tmp_path / "results" / f"{name}-asked-at-target.json")
    assert usual.command == as_served.command.replace(" --split.moment target", "")
    assert (usual.moment, as_served.moment) == ("", "target")
    assert "targets last, asked at the time of the target: 166 all users" in capsys.readouterr().out
    digests = {path.parent.parent.name: path.read_text() for path in (tmp_path / "benchmark").rglob(DIGEST_FILE)}
    assert set(digests) == {"leave-one-out-last", "leave-one-out-last-asked-at-target"}
    assert len(set(digests.values())) == 2, "peers that read time are asked at that moment, too"


def test_what_does_not_cut_time_is_evaluated_and_never_published(shop: Path, tmp_path: Path) -> None:
    arguments = ["--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main(["run", *arguments, "--split.protocol", "leave-one-out"])
    assert stopped.value.code == 2
    config = OfflineConfig.from_arguments([*arguments, "--split.protocol", "leave-one-out"], "test")
    with pytest.raises(DataError, match="leave-one-out does not cut time"):
        _ = Workflow(config).split
