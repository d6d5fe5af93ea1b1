"""The command: help, one line per error, exit codes, and the configuration it says it runs with."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import pytest

from offline.commands.cli import VERBS, described, main, usage
from offline.dataset.tables import read_table
from offline.workflow.config import OfflineConfig
from recsys.bundle import BundleStore, Release

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process, in an empty folder; returns exit code, stdout and stderr."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def invoke(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code if isinstance(stopped.code, int) else 1
        output = capsys.readouterr()
        return code, output.out, output.err

    return invoke


def _errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_verb_it_lists_them(run: Run, arguments: list[str]) -> None:
    code, shown, complaints = run(*arguments)
    assert (code, shown, complaints) == (0, usage(), "")
    for name, verb in VERBS.items():
        assert f"  {name:<12}{verb.summary}\n" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_describes_its_settings(run: Run, verb: str) -> None:
    code, shown, _ = run(verb, "--help")
    assert code == 0
    text = " ".join(shown.split())
    assert shown.startswith(f"usage: python -m offline {verb} [--setting VALUE …]\n")
    for name, setting in VERBS[verb].config.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        if setting.description:
            assert setting.description.split(",")[0].split(";")[0] in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trian"],
            "error: no verb 'trian'; there are: download, ingest, train, evaluate, benchmark, tune, ",
        ),
        (["--dataset", "demo"], "error: no verb '--dataset'; there are: "),
        (["run", "--epochs", "3"], "error: unrecognized arguments: --epochs 3; see --help"),
        (
            ["run", "--two-tower.sequence-heads", "4"],
            "error: two_tower.sequence_heads was renamed to two_tower.sequence",
        ),
        (["run", "demo"], "error: unrecognized arguments: demo; see --help"),
        (["run", "--seed", "x"], "error: seed: Input should be a valid integer"),
        (["run", "--dataset"], "error: argument --dataset: expected one argument; see --help"),
        (["run", "--config", "absent.toml"], "error: --config absent.toml: cannot be read as TOML"),
        (["evaluate", "--targets", "some"], "error: targets: Input should be 'all'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    code, shown, complaints = run(*arguments)
    assert (code, shown) == (2, "")
    assert complaints.startswith(message)
    assert complaints.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 3\n", "unknown key 'epochs'; see --help for the known ones"),
        ("[itemcf]\nshrinkage = 3\n", "unknown key 'itemcf.shrinkage'; see --help for the known ones"),
        ("[itemcf\n", "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_one_line_and_exit_code_2(run: Run, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "offline.toml"
    file.write_text(text)
    code, _, complaints = run("rollback", "--config", str(file))
    assert code == 2
    assert complaints.startswith("error: ")
    assert "offline.toml: " in complaints
    assert message in complaints
    assert complaints.count("\n") == 1


@pytest.mark.parametrize("verb", ["ingest", "train", "evaluate", "publish", "run"])
def test_a_missing_data_folder_is_named(run: Run, tmp_path: Path, verb: str) -> None:
    absent = tmp_path / "absent"
    code, _, complaints = run(verb, "--dataset", "shop", "--data-dir", str(absent), "--root", str(tmp_path / "data"))
    assert code == 2
    (error,) = _errors(complaints)
    assert str(absent) in error
    assert "Traceback" not in complaints


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "--dataset", "shop"], "shop: name the folder or zip that holds it; known data sets are demo, "),
        (["download", "--dataset", "shop"], "shop: not a data set that can be downloaded; these can: "),
        (["rollback"], "no bundle was ever published here; run `python -m offline run`"),
    ],
)
def test_what_is_not_there_is_named(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, _, complaints = run(*arguments, "--root", str(tmp_path))
    assert code == 2
    (error,) = _errors(complaints)
    assert message in error
    assert "Traceback" not in complaints


def test_a_real_process_prints_its_configuration_and_fails_without_a_traceback(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent")
    places = ["--data-dir", absent, "--root", str(tmp_path)]
    arguments = ["ingest", "--dataset", "ml-1m", *places, "--seed", "42", "--itemcf.n-neighbours", "77"]
    done = subprocess.run([sys.executable, "-m", "offline", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert f" offline ingest\n  config=None dataset=ml-1m data_dir={absent} " in done.stderr
    assert " seed=42 events=False " in done.stderr
    (itemcf,) = [line for line in done.stderr.splitlines() if line.startswith("  [itemcf] ")]
    assert " n_neighbours=77 " in itemcf
    assert len(_errors(done.stderr)) == 1
    assert absent in _errors(done.stderr)[0]
    assert "Traceback" not in done.stderr


def test_ingest_makes_tables(run: Run, tmp_path: Path, shipped: SimpleNamespace) -> None:
    raw = shipped.write_folder(tmp_path / "raw", shipped.csv)
    arguments = ("--dataset", "ml-latest-small", "--data-dir", str(raw), "--root", str(tmp_path / "data"))
    assert run("ingest", *arguments)[0] == 0
    assert read_table(tmp_path / "data/ml-latest-small/tables", "ratings").num_rows == 3


def test_every_setting_is_in_the_description() -> None:
    config = OfflineConfig.from_arguments([], "offline run")
    lines = described(config).splitlines()
    plain = [name for name in OfflineConfig.model_fields if f" {name}=" in lines[0]]
    sections = [line.split("]")[0].removeprefix("  [") for line in lines[1:]]
    assert plain + [name for name in sections if "." not in name] == list(OfflineConfig.model_fields)
    assert [name for name in sections if "." in name] == [
        "popularity.returning",
        "two_tower.pooled",
        "two_tower.sequence",
    ]
    (sequence,) = [line for line in lines if line.startswith("  [two_tower.sequence] ")]
    assert sequence.startswith("  [two_tower.sequence] size=64 blocks=2 heads=2 ")
    (split,) = [line for line in lines if line.startswith("  [split] ")]
    assert split.startswith("  [split] protocol=temporal windows=[0.6, 0.7] validation=0.8 test=0.9 core=5 ")


def test_a_file_sets_what_a_flag_sets(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "offline.toml"
    file.write_text(f'dataset = "shop"\nroot = "{tmp_path}"\n')
    code, _, complaints = run("rollback", "--config", str(file))
    assert code == 2
    assert f"{tmp_path}/shop/bundles/production: no bundle was ever published here" in complaints


def test_interrupted_it_says_so_and_exits_with_130(tmp_path: Path) -> None:
    """`rollback` waits for a publisher that holds the lock; Ctrl-C ends the wait, not the bundle."""
    store = BundleStore(tmp_path / "demo/bundles/production")
    store.root.mkdir(parents=True)
    store.write_release(Release("b", "a"))
    arguments = [sys.executable, "-m", "offline", "rollback", "--root", str(tmp_path)]
    with (store.root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            while not process.stderr.readline().startswith("  [content]"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(120) == 130
    assert rest == "interrupted; finished steps are kept, run the same command again to continue\n"
    assert store.release() == Release("b", "a")


def test_the_console_script_is_this_command() -> None:
    (script,) = entry_points(group="console_scripts", name="recsys-offline")
    assert script.load() is main
