"""Settings of the bench: flags before what was chosen, what was chosen before defaults; and models by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.benchmark.command import command_of
from offline.benchmark.config import BenchmarkConfig, TuneConfig
from offline.benchmark.runs import chosen_models
from offline.benchmark.tuning import Tuned, toml_of
from offline.config import OfflineConfig
from recsys.errors import CannotStart


def test_the_protocol_is_said_once(tmp_path: Path) -> None:
    config = BenchmarkConfig.from_arguments(
        ["--protocol", "leave-one-out", "--split.judging-share", "0.3", "--data-dir", "some/ml-1m-timed"], "test"
    )
    assert (config.split.protocol, config.split.judging_share) == ("leave-one-out", 0.3)
    assert (config.label, config.place) == ("ml-1m-timed", "leave-one-out-ml-1m-timed")
    assert command_of(config.model_copy(update={"remark": "times imputed"})) == (
        "python -m offline benchmark --protocol leave-one-out --dataset demo --data-dir path/to/ml-1m-timed "
        "--split.judging-share 0.3 --remark 'times imputed'"
    )
    last = BenchmarkConfig.from_arguments(["--targets", "last", "--settings", str(tmp_path)], "test")
    assert (last.split.protocol, last.split.labels, last.place) == ("time-to-split", "last", "time-to-split-demo-last")


def test_chosen_settings_go_before_defaults_and_behind_flags(tmp_path: Path) -> None:
    folder = tmp_path / "leave-one-out-shop"
    folder.mkdir()
    (folder / "itemcf.toml").write_text(toml_of({"itemcf.reg": 77.0, "itemcf.n_neighbours": 30}))
    common = ["--protocol", "leave-one-out", "--dataset", "shop", "--settings", str(tmp_path)]
    config = BenchmarkConfig.from_arguments([*common, "--itemcf.n-neighbours", "40"], "test")
    assert (config.itemcf.reg, config.itemcf.n_neighbours) == (77.0, 40)
    other = BenchmarkConfig.from_arguments([*common, "--protocol", "random-60-20-20"], "test")
    assert other.itemcf.reg == OfflineConfig.from_arguments([], "test").itemcf.reg


def test_a_search_leaves_what_people_chose_alone_and_goes_before_it(tmp_path: Path) -> None:
    """Sections of the same name are joined key by key, also with those of the data set's preset."""
    common = ["--protocol", "time-to-split", "--dataset", "demo", "--settings", str(tmp_path)]
    config = TuneConfig.from_arguments(common, "test")
    by_hand = "[itemcf]\nreg = 5.0\nhalf_life_days = 30.0\n\n[lightgbm]\nleaves = 5\n"
    (tmp_path / config.place).mkdir()
    (tmp_path / config.place / "base.toml").write_text(by_hand)
    Tuned("itemcf", "ndcg@10", {"itemcf.reg": 77.0}, 0.1, 3.0, []).save(tmp_path / config.place)
    assert (tmp_path / config.place / "base.toml").read_text() == by_hand
    found = BenchmarkConfig.from_arguments(common, "test")
    assert (found.itemcf.reg, found.itemcf.half_life_days) == (77.0, 30.0)
    assert (found.lightgbm.leaves, found.lightgbm.max_rounds) == (5, config.lightgbm.max_rounds)
    assert config.lightgbm.max_rounds != OfflineConfig().lightgbm.max_rounds


def test_models_are_chosen_by_name() -> None:
    ours = ("popularity", "itemcf", "blended", "ranked")
    config = BenchmarkConfig.from_arguments(["--models", "itemcf,ease,peer:popularity"], "test")
    assert chosen_models(config, ours) == (["ease", "popularity"], ["itemcf"])
    with pytest.raises(CannotStart, match="no model 'vasp'; peers are"):
        chosen_models(config.model_copy(update={"models": ("vasp",)}), ours)
