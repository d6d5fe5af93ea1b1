"""One run of one peer on one rows folder: tuning on the validation rows within a CPU budget, refit, lists."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from peers.cost import BudgetMeter, cpu_seconds, peak_memory_bytes
from peers.lists import Scorer, list_items, measure, write_lists
from peers.models import PEERS, Peer
from peers.race import run_race
from peers.rows import Requests, RowsFolder, read_rows
from peers.trials import Settings, best_of, finished_trials, open_study, seconds_of, table, tune

EVALUATED_REQUESTS = 2000


@dataclass(frozen=True)
class Run:
    """One peer on one rows folder, with its study and its meter."""

    name: str
    peer: Peer
    rows: RowsFolder
    study: optuna.Study
    meter: BudgetMeter

    @property
    def seed(self) -> int:
        """The seed of the rows, for every model."""
        return int(self.rows.facts["seed"])

    @property
    def ratio(self) -> float:
        """How many rows the refit has for each row of a trial's fit."""
        return len(self.rows.refit.item) / max(len(self.rows.fit.item), 1)

    def evaluated_requests(self) -> tuple[Requests, np.ndarray]:
        """The validation requests that settings are evaluated on, and their positions: all, or a fixed sample of them
        for a peer that is evaluated after every epoch."""
        positions = np.arange(len(self.rows.validation.ids))
        if self.peer.epochs and len(positions) > EVALUATED_REQUESTS:
            positions = np.sort(np.random.default_rng(self.seed).choice(positions, EVALUATED_REQUESTS, replace=False))
        return self.rows.validation.part(positions), positions

    def evaluate(self, scorer: Scorer) -> float:
        """The protocol's metric of a scorer on the validation requests."""
        requests, positions = self.evaluated_requests()
        lists, _ = list_items(scorer, requests, self.rows)
        return measure(lists, self.rows.relevant[positions], str(self.rows.facts["metric"]))


def tune_at_once(run: Run) -> Any:
    """Tunes a peer that is fitted in one go; returns None, for nothing that was learned is needed later.

    The search stops where another trial as long as the longest, and the refit after it, would overrun the budget.
    """
    fit = run.peer.load()
    tune(
        run.study,
        lambda settings: run.evaluate(fit(run.rows.fit, settings, run.seed)),
        published=run.peer.published,
        space=run.peer.space,
        may_continue=lambda longest: (
            run.meter.left() > longest * (1 + run.ratio) and len(finished_trials(run.study)) < run.peer.max_trials
        ),
        seconds=cpu_seconds,
    )
    return None


def tune_by_epochs(run: Run) -> Any:
    """Races the settings of a peer that learns by epochs; returns the winner, or None where an earlier run has."""
    build = run.peer.load()
    return run_race(
        run.study,
        run.meter,
        build=lambda settings: build(run.peer.kind, run.rows.fit, settings, run.seed),
        evaluate=run.evaluate,
        offer=(list(run.peer.published), run.peer.space),
        rows_ratio=run.ratio,
        epochs=run.peer.epochs,
    )


def refit(run: Run, settings: Settings, learned: Any) -> Scorer:
    """The peer with all rows before the test: fitted again, or, where it learns by epochs, continued for one pass.

    `learned` is what tuning has left; where it is None, the winner is trained again for settings["epochs"].
    """
    load = run.peer.load()
    if not run.peer.epochs:
        fitted: Scorer = load(run.rows.refit, settings, run.seed)
        return fitted
    if learned is None:
        learned = load(run.peer.kind, run.rows.fit, settings, run.seed)
        for _ in range(settings["epochs"]):
            learned.epoch()
    continued = learned.continue_on(run.rows.refit)
    continued.epoch()
    scorer: Scorer = continued
    return scorer


def chosen(run: Run) -> Settings:
    """The best trial's settings, with the epochs to train for where the peer learns by epochs."""
    best = best_of(run.study)
    assert best is not None
    epochs = {"epochs": best.user_attrs["epochs"]} if run.peer.epochs else {}
    return {**best.user_attrs["settings"], **epochs}


def outcome(run: Run) -> tuple[bool, str]:
    """Whether the peer got what its published settings need, and a note for the table."""
    best = best_of(run.study)
    if not run.peer.epochs or best is None:
        return True, ""
    curve, seconds = best.user_attrs["curve"], best.user_attrs["epoch_seconds"]
    trained = f"{len(curve)} epochs of {seconds:.0f} CPU-seconds, best after {best.user_attrs['epochs']}"
    if best.user_attrs["converged"]:
        return True, f"{trained}; stopped by validation"
    hours = (run.peer.epochs + 1) * seconds / 3600
    return (
        False,
        f"needs {hours:.1f} CPU-hours ({run.peer.epochs} epochs and the refit); {trained}; stopped by the budget",
    )


def describe(run: Run, settings: Settings, note: str, *, finished: bool) -> dict[str, Any]:
    """What run.json holds."""
    return {
        "model": run.name,
        "package": run.peer.package,
        "version": run.peer.version(),
        "facts": run.rows.facts,
        "rows": run.rows.fingerprint,
        "settings": settings,
        "published": list(run.peer.published),
        "published_source": run.peer.source,
        "searched_by": run.peer.searched_by,
        "trials": table(run.study),
        "budget_seconds": run.meter.budget_seconds,
        "cpu_seconds": round(run.meter.spent(), 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "finished": finished,
        "note": note,
    }


def study_name(options: argparse.Namespace, rows: RowsFolder) -> str:
    """Which trials count for a run: those on its rows. A race is run for one budget, and its contestants learn for a
    share of it, so another budget races again; other searches continue where a smaller budget ended. A run with given
    settings has no trials.
    """
    if options.settings:
        return f"{options.model}-{rows.fingerprint}-given"
    budget = f"-{options.budget_minutes:g}" if PEERS[options.model].epochs else ""
    return f"{options.model}-{rows.fingerprint}{budget}"


def run_peer(options: argparse.Namespace) -> dict[str, Any]:
    """Tunes, refits, writes lists.parquet and run.json; returns what run.json holds."""
    rows = read_rows(options.rows)
    study = open_study(options.out, study_name(options, rows), int(rows.facts["seed"]))
    meter = BudgetMeter(options.budget_minutes * 60, before=seconds_of(study))
    run = Run(options.model, PEERS[options.model], rows, study, meter)
    learned = None
    if options.settings:
        settings = json.loads(options.settings.read_text(encoding="utf-8"))
    else:
        learned = (tune_by_epochs if run.peer.epochs else tune_at_once)(run)
        settings = chosen(run)
    lists = list_items(refit(run, settings, learned), rows.test, rows)
    empty = write_lists(options.out / "lists.parquet", rows.test, rows.items, lists)
    finished, note = outcome(run)
    if empty:
        note = f"{note}; {empty} requests have no list".lstrip("; ")
    record = describe(run, settings, note, finished=finished)
    (options.out / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def parse(arguments: list[str], description: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="folder that the bench exported")
    parser.add_argument("--model", choices=sorted(PEERS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for lists.parquet, run.json, trials.sqlite")
    parser.add_argument("--budget-minutes", type=float, default=60.0, help="CPU-minutes, tuning and refit included")
    parser.add_argument("--settings", type=Path, help="JSON file: run.json's settings of an earlier run, not searched")
    return parser.parse_args(arguments)


def already_done(options: argparse.Namespace) -> bool:
    """Whether run.json and lists.parquet are there from a search on the same rows with the same budget."""
    path = options.out / "run.json"
    if not path.is_file() or not (options.out / "lists.parquet").is_file() or options.settings:
        return False
    record = json.loads(path.read_text(encoding="utf-8"))
    same_rows = record.get("rows") == read_rows(options.rows).fingerprint
    return bool(same_rows and record.get("trials") and record.get("budget_seconds") == options.budget_minutes * 60)


def main(arguments: list[str], description: str) -> None:
    """Runs, and prints one line."""
    options = parse(arguments, description)
    if already_done(options):
        print(f"{options.model}: already done, see {options.out / 'run.json'}")
        return
    record = run_peer(options)
    best = max((trial["metric"] for trial in record["trials"] if trial["state"] == "complete"), default=float("nan"))
    print(
        f"{options.model}: {len(record['trials'])} trials, validation {record['facts']['metric']} {best:.4f}, "
        f"{record['cpu_seconds']:.0f} CPU-seconds. {record['note']}"
    )
