"""Settings of the bench: flags before what was chosen, what was chosen before defaults; and models by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offline.studies.benchmark.command import command_of
from offline.studies.benchmark.config import BenchmarkConfig, TuneConfig
from offline.studies.benchmark.runs import chosen_models
from offline.studies.benchmark.spaces import SPACES, SearchedSettings, present
from offline.studies.benchmark.tuning import Tuned, toml_of
from offline.workflow.config import OfflineConfig
from recall_server.channels.evidence import ValueScale
from recsys.errors import CannotStart


def test_the_protocol_is_said_once(tmp_path: Path) -> None:
    config = BenchmarkConfig.from_arguments(
        ["--protocol", "leave-one-out", "--split.selection-validation-share", "0.3", "--data-dir", "some/ml-1m-timed"],
        "test",
    )
    assert (config.split.protocol, config.split.selection_validation_share) == ("leave-one-out", 0.3)
    assert (config.label, config.place) == ("ml-1m-timed", "leave-one-out-ml-1m-timed")
    assert command_of(config.model_copy(update={"remark": "times imputed"})) == (
        "python -m offline benchmark --protocol leave-one-out --dataset demo --data-dir path/to/ml-1m-timed "
        "--split.selection-validation-share 0.3 --remark 'times imputed'"
    )
    described = config.model_copy(update={"metadata_file": Path("here/people.csv"), "root": Path("here")})
    assert command_of(described).endswith(
        "path/to/ml-1m-timed --metadata-file path/to/people.csv --split.selection-validation-share 0.3"
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


def test_a_search_keeps_what_people_chose_within_a_section_of_a_section(tmp_path: Path) -> None:
    common = ["--protocol", "time-to-split", "--dataset", "shop", "--settings", str(tmp_path)]
    config = TuneConfig.from_arguments(common, "test")
    (tmp_path / config.place).mkdir()
    by_hand = "[two_tower]\nhistory_limit = 50\n\n[two_tower.sequence]\nblocks = 3\ndropout = 0.3\n"
    (tmp_path / config.place / "base.toml").write_text(by_hand)
    chosen: SearchedSettings = {"two_tower.tower": "sequence", "two_tower.sequence.dropout": 0.1}
    assert toml_of(chosen) == '[two_tower]\ntower = "sequence"\n\n[two_tower.sequence]\ndropout = 0.1\n'
    Tuned("vector", "ndcg@10", chosen, 0.1, 3.0, []).save(tmp_path / config.place)
    towers = BenchmarkConfig.from_arguments(common, "test").two_tower
    assert (towers.tower, towers.history_limit) == ("sequence", 50)
    assert (towers.sequence.blocks, towers.sequence.dropout) == (3, 0.1)


def test_a_search_that_chose_all_ratings_goes_before_people_who_left_some_out(tmp_path: Path) -> None:
    """TOML has no null: what means it is a number, and is written."""
    common = ["--protocol", "time-to-split", "--dataset", "shop", "--settings", str(tmp_path)]
    config = TuneConfig.from_arguments(common, "test")
    start = present(SPACES["als"], config)
    (tmp_path / config.place).mkdir()
    (tmp_path / config.place / "base.toml").write_text("[als]\nmin_value = 4.0\n")
    assert TuneConfig.from_arguments(common, "test").als.min_value == 4.0
    Tuned("als", "ndcg@10", start, 0.1, 3.0, []).save(tmp_path / config.place)
    assert BenchmarkConfig.from_arguments(common, "test").als.min_value == 0.0
    ratings = np.asarray([np.nan, 1.0, 3.5, 5.0], np.float32)
    scales = [ValueScale(low=1.0, high=5.0, floor=0.2, least=least) for least in (0.0, None)]
    assert scales[0].evidence(ratings).tolist() == scales[1].evidence(ratings).tolist()


def test_models_are_chosen_by_name() -> None:
    ours = ("popularity", "itemcf", "blended", "ranked")
    config = BenchmarkConfig.from_arguments(["--models", "itemcf,ease,peer:popularity"], "test")
    assert chosen_models(config, ours) == (["ease", "popularity"], ["itemcf"])
    with pytest.raises(CannotStart, match="no model 'vasp'; peers are"):
        chosen_models(config.model_copy(update={"models": ("vasp",)}), ours)
