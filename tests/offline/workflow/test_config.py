"""Where a setting comes from: preset before defaults, then file, environment and flags, table by table."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from offline.ranking.samples import SamplesConfig
from offline.recall.two_tower.config import TwoTowerConfig
from offline.studies.benchmark.config import BenchmarkConfig
from offline.workflow.config import PRESETS, OfflineConfig
from offline.workflow.renamed import RENAMED_SETTINGS
from recall_server.channels.registry import channel_class
from recsys.config import merged
from recsys.errors import CannotStart

DEMO_PRESET = tomllib.loads((PRESETS / "demo.toml").read_text("utf-8"))
PATIENCE = DEMO_PRESET["two_tower"]["pooled"]["patience"]
"""A setting of `demo` that no test below changes."""


def parse(*arguments: str) -> OfflineConfig:
    return OfflineConfig.from_arguments(arguments, "offline run")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "offline.toml"
    path.write_text("seed = 5\n[two_tower.pooled]\nepochs = 3\n[samples]\nmax_users = 7\n")
    return path


def test_demo_has_a_quick_preset() -> None:
    config = parse()
    assert config.dataset == "demo"
    for section, settings in DEMO_PRESET.items():
        found = getattr(config, section).model_dump(mode="json")
        assert merged(found, settings) == found
    assert config.itemcf == OfflineConfig().itemcf


def test_other_data_sets_have_the_defaults() -> None:
    config = parse("--dataset", "ml-1m")
    assert (config.two_tower, config.samples) == (TwoTowerConfig(), SamplesConfig())
    assert parse("--dataset=ml-1m") == config


def test_the_file_goes_before_the_preset_and_flags_before_both(file: Path) -> None:
    config = parse("--config", str(file), "--two-tower.pooled.epochs", "9", "--samples.max-users=11")
    assert config.seed == 5
    assert (config.two_tower.pooled.epochs, config.two_tower.pooled.patience) == (9, PATIENCE)
    assert config.samples.max_users == 11
    assert parse("--config", str(file)).two_tower.pooled.epochs == 3
    assert parse("--config", str(file)).samples.max_users == 7


def test_a_flag_changes_one_setting_of_a_table_of_the_preset() -> None:
    config = parse("--two-tower.pooled.epochs", "1")
    assert (config.two_tower.pooled.epochs, config.two_tower.pooled.patience) == (1, PATIENCE)


def test_the_environment_goes_before_the_file_and_behind_flags(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYSOFFLINE_SEED", "6")
    monkeypatch.setenv("RECSYSOFFLINE_TWO_TOWER", '{"pooled": {"epochs": 8}}')
    config = parse("--config", str(file))
    assert (config.seed, config.two_tower.pooled.epochs, config.two_tower.pooled.patience) == (6, 8, PATIENCE)
    assert parse("--config", str(file), "--seed", "7").seed == 7


def test_a_data_set_named_in_the_file_has_no_preset_of_demo(tmp_path: Path) -> None:
    file = tmp_path / "ml.toml"
    file.write_text('dataset = "ml-1m"\n')
    assert parse("--config", str(file)).two_tower == TwoTowerConfig()
    assert parse("--config", str(file), "--dataset", "demo").two_tower.pooled.patience == PATIENCE


def test_a_data_set_named_in_the_environment_has_no_preset_of_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYSOFFLINE_DATASET", "ml-1m")
    assert parse().samples == SamplesConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3\n", "unknown key 'epoch'"),
        ("[two_tower]\nepoch = 3\n", r"unknown key 'two_tower\.epoch'"),
        ("[two_tower.pooled]\nepoch = 3\n", r"unknown key 'two_tower\.pooled\.epoch'"),
        (
            "[two_tower.pooled]\nepochs = 0\n",
            r"two_tower\.pooled\.epochs: Input should be greater than or equal to 1, found 0",
        ),
        ("[split]\nvalidation = 0.95\n", "must ascend"),
        ("dataset = 7\n", "dataset: Input should be a valid string, found 7"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(CannotStart, match=message) as caught:
        parse("--config", str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset"], "argument --dataset: expected one argument; see --help"),
        (["--two-tower.epoch", "3"], "unrecognized arguments: --two-tower.epoch 3; see --help"),
        (["--keep-bundles", "1"], "keep_bundles: Input should be greater than or equal to 2, found '1'"),
    ],
)
def test_wrong_flags_are_refused_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(CannotStart, match=message) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)


def _exists(key: str) -> bool:
    """Whether the dotted `key` is a setting of the offline verbs, or a section."""
    found: Any = OfflineConfig()
    for name in key.split("."):
        if name not in type(found).model_fields:
            return False
        found = getattr(found, name)
    return True


def test_a_renamed_setting_is_gone_and_its_new_name_is_one() -> None:
    assert RENAMED_SETTINGS["two_tower.sequence_heads"] == "two_tower.sequence.heads"
    assert RENAMED_SETTINGS["two_tower.epochs"] == "two_tower.pooled.epochs"
    assert [old for old in RENAMED_SETTINGS if _exists(old)] == []
    assert [new for new in RENAMED_SETTINGS.values() if not _exists(new)] == []


@pytest.mark.parametrize("old", RENAMED_SETTINGS)
def test_a_renamed_setting_is_refused_in_flag_file_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    section, name = old.split(".")
    message = re.escape(f"{old} was renamed to {RENAMED_SETTINGS[old]}; change the flag, the variable or the file")
    flag = old.replace("_", "-")
    for words in ([f"--{flag}", "1"], [f"--{flag}=1"], [f"--no-{flag}"]):
        with pytest.raises(CannotStart, match=message):
            parse(*words)
    path = tmp_path / "old.toml"
    path.write_text(f"[{section}]\n{name} = 1\n")
    with pytest.raises(CannotStart, match=message):
        parse("--config", str(path))
    monkeypatch.setenv(f"RECSYSOFFLINE_{section.upper()}", json.dumps({name: 1}))
    with pytest.raises(CannotStart, match=message):
        parse()


def test_everything_of_a_data_set_is_below_the_root() -> None:
    config = parse("--dataset", "shop", "--root", "elsewhere")
    home = Path("elsewhere/shop")
    found = [config.home, config.tables, config.events_file, config.store("production").root]
    assert found == [home, home / "tables", home / "events/events.sqlite", home / "bundles/production"]
    assert config.store("evaluation").root == home / "bundles/evaluation"


@pytest.mark.parametrize(
    ("dataset", "clock", "expected"),
    [
        ("demo", "auto", "cutoff"),
        ("ml-1m", "auto", "cutoff"),
        ("shop", "auto", "wall"),
        ("shop", "cutoff", "cutoff"),
        ("demo", "wall", "wall"),
    ],
)
def test_the_clock_of_old_data_stands_still(dataset: str, clock: str, expected: str) -> None:
    config = parse("--dataset", dataset, "--serving.clock", clock)
    assert config.serving.policy(config.dataset).serving_clock == expected


def test_channels_are_chosen_by_name_and_asked_in_one_order() -> None:
    serving = parse("--serving.channels", "content,popularity,als").serving
    assert serving.channels == ("popularity", "als", "content")
    assert [channel.name for channel in serving.policy("demo").channels] == ["popularity", "als", "content"]
    assert parse("--serving.channels", "als").recall.channels == ("als",)
    with pytest.raises(CannotStart, match="no recall channel 'magic'; choose from popularity, itemcf, vector, als"):
        parse("--serving.channels", "popularity,magic")


def test_the_first_policy_asks_every_channel_alike() -> None:
    policy = parse("--serving.channel-count", "120").serving.policy("demo")
    assert [(channel.name, channel.count, channel.weight) for channel in policy.channels] == [
        ("popularity", 120, 1.0),
        ("itemcf", 120, 1.0),
        ("vector", 120, 1.0),
    ]
    assert [channel.history_limit for channel in policy.channels] == [
        channel_class(channel.name).history_limit for channel in policy.channels
    ]
    assert policy.ranking == "blended"


def test_what_the_benchmark_chose_can_be_served() -> None:
    """The bench reads a folder of settings by itself; every other verb takes the same file with --config."""
    chosen = Path(__file__).parents[3] / "benchmarks/settings/time-to-split-ml-1m-timed/base.toml"
    served = OfflineConfig.from_arguments(["--dataset", "ml-1m", "--config", str(chosen)], "test")
    words = ["--dataset", "ml-1m", "--data-dir", "any/ml-1m-timed", "--settings", str(chosen.parents[1])]
    bench = BenchmarkConfig.from_arguments(words, "test")
    assert (bench.serving, bench.ranker, bench.lightgbm) == (served.serving, served.ranker, served.lightgbm)
    assert (bench.itemcf, bench.als) == (served.itemcf, served.als), "searched, and copied into the file"
    assert bench.split.windows == served.split.windows
    assert served.serving != OfflineConfig().serving
