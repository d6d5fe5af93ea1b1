"""Tuning: a search from what is configured that continues where it stopped, and its command on a small shop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from offline.commands.cli import main
from offline.studies.benchmark import tuning
from offline.studies.benchmark.config import TuneConfig
from offline.studies.benchmark.spaces import SPACES, Integer, SearchedSettings, overridden, present
from offline.studies.benchmark.tracking import track_result
from offline.studies.benchmark.tuning import search, study_name, toml_of
from offline.workflow.config import OfflineConfig
from tests.offline.studies.benchmark.bench import a_result


@pytest.mark.parametrize("model", SPACES)
def test_every_search_starts_from_what_is_configured(model: str) -> None:
    config = OfflineConfig.from_arguments(["--dataset", "shop"], "test")
    start = present(SPACES[model], config)
    assert set(start) == set(SPACES[model]), "a default outside of its space is never tried"
    assert None not in start.values(), "a file cannot say null"
    tried = overridden(config, start).model_dump()
    for key in (key for key in start if key.endswith(".min_value")):
        section, name = key.split(".")
        assert tried[section].pop(name) == 0.0, "no rating is lower, which is what null means"
        tried[section][name] = None
    assert tried == config.model_dump()


def test_a_search_finds_the_best_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "itemcf", {"itemcf.n_neighbours": Integer(1, 400)})  # type: ignore[misc]
    arguments = ["--root", str(tmp_path), "--dataset", "shop", "--max-trials", "3", "--settings", str(tmp_path / "s")]
    config = TuneConfig.from_arguments(arguments, "test")
    tried: list[int] = []

    def objective(settings: SearchedSettings) -> float:
        tried.append(int(str(settings["itemcf.n_neighbours"])))
        return -abs(tried[-1] - 100) + 0.0 * sum(range(200_000))

    first = search(config, "itemcf", objective, rows="a")
    assert tried[0] == config.itemcf.n_neighbours, "the present settings are a trial"
    assert len(tried) == len(first.trials) == 3
    assert first.settings["itemcf.n_neighbours"] == min(tried, key=lambda value: abs(value - 100))
    search(config.model_copy(update={"max_trials": 4}), "itemcf", objective, rows="a")
    assert len(tried) == 4
    spent = search(config.model_copy(update={"max_trials": 99, "budget_minutes": 1e-9}), "itemcf", objective, rows="a")
    assert len(tried) == 4, "the CPU time of earlier runs counts"
    spent.save(tmp_path / "s" / config.place)
    table = json.loads((tmp_path / "s" / config.place / "itemcf.json").read_text())
    assert [trial["settings"]["itemcf.n_neighbours"] for trial in table["trials"]] == tried
    assert TuneConfig.from_arguments(arguments, "test").itemcf.n_neighbours == spent.settings["itemcf.n_neighbours"]


def test_a_search_that_was_killed_in_its_first_trial_begins_with_what_is_configured(tmp_path: Path) -> None:
    config = TuneConfig.from_arguments(
        ["--root", str(tmp_path), "--dataset", "shop", "--max-trials", "1", "--settings", str(tmp_path)], "test"
    )

    def killed(settings: SearchedSettings) -> float:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(config, "itemcf", killed, rows="a")
    found = search(config, "itemcf", lambda settings: 1.0, rows="a")
    assert found.settings == present(SPACES["itemcf"], config)


def test_trials_of_other_rows_or_other_fixed_settings_do_not_count(tmp_path: Path) -> None:
    config = TuneConfig.from_arguments(["--dataset", "shop", "--settings", str(tmp_path)], "test")

    def name(model: str = "itemcf", rows: str = "a", **sections: dict[str, object]) -> str:
        changed = {section: getattr(config, section).model_copy(update=values) for section, values in sections.items()}
        return study_name(config.model_copy(update=changed), model, rows)

    assert name() != name(rows="b")
    assert name() != name(itemcf={"ease_items": 7})
    assert name() != name(split={"test": 0.95})
    assert name() == name(itemcf={"reg": 7.0}), "what an earlier search chose is searched again"
    assert name() == name(als={"reg": 7.0}), "ItemCF is evaluated alone"
    assert name("ranker") != name("ranker", als={"reg": 7.0}), "a ranker is evaluated on what all channels give"
    assert name("ranker") == name("ranker", lightgbm={"leaves": 7})


def test_a_search_on_other_rows_is_another_search(tmp_path: Path) -> None:
    arguments = ["--root", str(tmp_path), "--dataset", "shop", "--max-trials", "1", "--settings", str(tmp_path)]
    config = TuneConfig.from_arguments(arguments, "test")
    assert search(config, "itemcf", lambda settings: 1.0, rows="a").value == 1.0
    assert search(config, "itemcf", lambda settings: 0.5, rows="b").value == 0.5
    assert search(config, "itemcf", lambda settings: 0.7, rows="a").value == 1.0, "the trial of before"


def test_the_rows_of_a_search_are_those_of_the_tables(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    monkeypatch.setattr(tuning, "search", lambda *_, rows: found.append(rows))
    lines = (shop / "interactions.csv").read_text().splitlines(keepends=True)
    (folder := tmp_path / "shop").mkdir()
    arguments = ["--dataset", "shop", "--data-dir", str(folder), "--root", str(tmp_path), "--settings", str(tmp_path)]
    for kept in (lines, lines, lines[:-1]):
        (folder / "interactions.csv").write_text("".join(kept))
        tuning.tune(TuneConfig.from_arguments(arguments, "test"), "itemcf")
    assert found[0] == found[1] != found[2]


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own use of SQLAlchemy
def test_tuning_is_one_command_and_its_runs_are_found_again(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command to MLflow and back: the better of two trials is saved and logged."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    main(
        [
            "tune", "--protocol", "temporal", "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path),
            "--models", "itemcf", "--max-trials", "2", "--settings", str(tmp_path / "settings"), "--tracking", uri,
            "--serving.channels", "popularity,itemcf",
        ]
    )  # fmt: skip
    place = tmp_path / "settings" / f"temporal-{shop.name}"
    trials = json.loads((place / "itemcf.json").read_text())["trials"]
    best = max(trials, key=lambda trial: float(trial["value"]))
    assert len(trials) == 2
    assert 0 < best["value"] <= 1
    assert (place / "itemcf.toml").read_text() == toml_of(best["settings"])
    track_result(uri, a_result())
    client = MlflowClient(tracking_uri=uri)
    (run,) = runs_of(client, f"tune-temporal-{shop.name}")
    assert run.info.run_name == "itemcf"
    assert run.data.params == {key: str(value) for key, value in best["settings"].items()}
    assert run.data.metrics["validation_ndcg_at_10"] == pytest.approx(best["value"])
    rows = {run.info.run_name: run.data for run in runs_of(client, a_result().name)}
    assert set(rows) == {"ease (toy 1)", "ranked"}, "neither what others published nor what was not run"
    assert rows["ranked"].metrics == {
        "ndcg_at_10": 0.3,
        "coverage_at_10": 0.4,
        "popularity_at_10": 0.8,
        "cpu_seconds": 99.0,
    }
    assert rows["ranked"].params["origin"] == "ours"


def test_settings_of_a_protocol_are_not_chosen_at_a_moment_that_is_not_its_own(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--protocol", "leave-one-out", "--dataset", "shop", "--data-dir", str(shop), "--root", str(tmp_path / "data"),
        "--models", "itemcf", "--settings", str(tmp_path / "settings"), "--split.moment", "target", "--tracking", "",
    ]  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main(["tune", *arguments])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "requests at the time of the target know what peers of leave-one-out do not" in message
    assert "tune without --split.moment, and give it to `benchmark`" in message
    assert not (tmp_path / "settings").exists()
    assert not (tmp_path / "data").exists(), "before anything is read or trained"


def runs_of(client: MlflowClient, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))
