"""Peers: models of others, in an environment of their own, that get the rows and give back lists.

A peer is the command `PYTHON benchmarks/peers/run.py --rows FOLDER --model NAME --out FOLDER --budget-minutes N`. It
writes `lists.parquet` (request, rank from 1, item_id, score) and `run.json` (what it is, chose and cost).
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from offline.evaluation.evaluate import Lists
from offline.metrics.ranking import LONGEST, NO_ITEM
from offline.protocols.targets import Targets
from offline.studies.benchmark.rows import DIGEST_FILE
from recsys.domain import Ids
from recsys.errors import ContractBroken

log = logging.getLogger(__name__)

LISTS_FILE, RUN_FILE, ORIGIN_FILE = "lists.parquet", "run.json", "made-from.json"
PROGRAM = Path("benchmarks/peers/run.py")

_MEMORY_MODELS = ("popularity", "ials", "bm25", "cosine", "ease", "itemknn", "implicit-mf")
_SEQUENCE_MODELS = ("sasrec", "bert4rec", "hstu")
PEERS: Mapping[str, tuple[str, ...]] = {
    "temporal": _MEMORY_MODELS,
    "time-to-split": _MEMORY_MODELS,
    "leave-one-out": ("popularity", "ease", *_SEQUENCE_MODELS),
    "strong-generalisation": ("popularity", "ials", "ease"),
    "random-60-20-20": ("popularity", "ials", "ease"),
}
"""The peers of a protocol, where the command does not name others."""
ALL_PEERS = frozenset((*_MEMORY_MODELS, *_SEQUENCE_MODELS))


@dataclass(frozen=True, slots=True)
class PeerRun:
    """What became of one peer."""

    model: str
    lists: Lists | None
    """None where there are none: `note` gives the reason."""
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`run.json`."""


@dataclass(frozen=True, slots=True)
class PeerPlace:
    """Where peers find what they need, and leave what they made."""

    python: Path
    rows: Path
    out: Path
    """One folder per peer below it."""
    settings: Path
    """Records of earlier tunings, `<model>.json`: one of this budget or a larger one is used instead of tuning."""
    budget_minutes: float


@dataclass(frozen=True, slots=True)
class ListsOrigin:
    """What the lists of a peer were made from; kept next to them."""

    rows: str
    """The digest of the rows."""
    budget_minutes: float
    """That of the search that chose the settings, be it of this run or of an earlier one."""
    recorded_seconds: float
    """CPU time of the earlier run that chose the settings; 0 where this one did."""
    recorded_note: str = ""
    """That run's own note, e.g. that the budget ended its training."""

    def serves(self, rows: str, budget_minutes: float) -> bool:
        """Whether a run on these rows, with this budget, may take the lists over."""
        return self.rows == rows and self.budget_minutes >= budget_minutes


def run_peer(model: str, place: PeerPlace, targets: Targets, catalogue_ids: Ids) -> PeerRun:
    """Lists of a peer: those of an earlier run on the very same rows in no smaller budget, else of a run started now.

    What a run that tuned has chosen is recorded with its budget. A search of a smaller budget than asked for is not
    taken over; one of a larger budget is, and the note states it. A training that the budget ended has lists, too: the
    note states what it would have needed. Raises ContractBroken where they are not lists of these requests.
    """
    out = place.out / model
    origin = _origin(out)
    if origin is None or not origin.serves((place.rows / DIGEST_FILE).read_text("ascii"), place.budget_minutes):
        if not place.python.is_file() or not PROGRAM.is_file():
            return PeerRun(model, None, "not run: make peers")
        origin, failure = _make(model, place, out)
        if failure:
            return PeerRun(model, None, f"not run: {failure}")
    facts = json.loads((out / RUN_FILE).read_text("utf-8"))
    note = str(facts.get("note") or "")
    if not (out / LISTS_FILE).is_file():
        return PeerRun(model, None, f"not run: {note or 'did not finish within the budget'}", facts)
    lists = read_lists(out / LISTS_FILE, targets, catalogue_ids)
    notes = [*note.split("; "), *origin.recorded_note.split("; ")]
    if origin.budget_minutes != place.budget_minutes:
        notes.append(f"tuned within {origin.budget_minutes:g} CPU-minutes")
    note = "; ".join(dict.fromkeys(filter(None, notes)))
    return PeerRun(model, lists, note, {**facts, "cpu_seconds": facts["cpu_seconds"] + origin.recorded_seconds})


def _origin(out: Path) -> ListsOrigin | None:
    """What the lists in a folder were made from; None where there are none, or where there is no record of it."""
    if not (out / ORIGIN_FILE).is_file() or not (out / RUN_FILE).is_file():
        return None
    return ListsOrigin(**json.loads((out / ORIGIN_FILE).read_text("utf-8")))


def _make(model: str, place: PeerPlace, out: Path) -> tuple[ListsOrigin, str]:
    """Runs the peer, with recorded settings where their search had the budget; also returns why it failed, or nothing.

    A run that tuned leaves its record.
    """
    record = _record(model, place)
    rows = (place.rows / DIGEST_FILE).read_text("ascii")
    origin = ListsOrigin(rows, place.budget_minutes, 0.0)
    if record:
        spent, note = float(record["cpu_seconds"]), str(record.get("note") or "")
        origin = ListsOrigin(rows, float(record["budget_minutes"]), spent, note)
    (out / ORIGIN_FILE).unlink(missing_ok=True)
    failure = _start(model, place, out, record.get("settings"))
    if not failure:
        (out / ORIGIN_FILE).write_text(json.dumps(asdict(origin), indent=1) + "\n", "utf-8")
        if not record:
            _keep_record(model, place, json.loads((out / RUN_FILE).read_text("utf-8")))
    return origin, failure


def _record(model: str, place: PeerPlace) -> dict[str, Any]:
    """The record of an earlier tuning in no smaller a budget; empty where there is none."""
    path = place.settings / f"{model}.json"
    record = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return record if record.get("budget_minutes", 0.0) >= place.budget_minutes else {}


def _keep_record(model: str, place: PeerPlace, facts: Mapping[str, Any]) -> None:
    """Writes down what a run has chosen and in which budget; one that tried nothing has chosen nothing."""
    if not facts.get("trials"):
        return
    place.settings.mkdir(parents=True, exist_ok=True)
    names = ("model", "package", "version", "settings", "cpu_seconds", "note", "trials")
    record = {"budget_minutes": place.budget_minutes, **{name: facts.get(name) for name in names}}
    (place.settings / f"{model}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def read_lists(path: Path, targets: Targets, catalogue_ids: Ids) -> Lists:
    """The lists in a file, by request.

    Raises ContractBroken where a request or item is unknown, a rank or item comes twice, or a seen item is listed.
    """
    table = pq.read_table(path)
    requests, ranks, items = (table[name].to_numpy().astype(np.int64) for name in ("request", "rank", "item_id"))
    scores = table["score"].to_numpy().astype(np.float32)
    n = len(targets)
    if len(requests) and not (requests.min() >= 0 and requests.max() < n and ranks.min() >= 1):
        raise ContractBroken(f"{path}: requests must be 0 to {n - 1} and ranks count from 1; run the peer again")
    unknown = items[~np.isin(items, catalogue_ids)]
    if len(unknown):
        raise ContractBroken(f"{path}: item {unknown[0]} is not in the catalogue; run the peer again")
    kept = ranks <= LONGEST
    requests, ranks, items, scores = requests[kept], ranks[kept] - 1, items[kept], scores[kept]
    item_ids, values = np.full((n, LONGEST), NO_ITEM, np.int64), np.zeros((n, LONGEST), np.float32)
    item_ids[requests, ranks], values[requests, ranks] = items, scores
    if np.count_nonzero(item_ids != NO_ITEM) != len(items):
        raise ContractBroken(f"{path}: a rank is given twice; run the peer again")
    for row, request in enumerate(targets.requests):
        listed = item_ids[row][item_ids[row] != NO_ITEM]
        if len(np.unique(listed)) != len(listed) or np.isin(listed, request.history.seen_item_ids()).any():
            raise ContractBroken(f"{path}: request {row} lists an item twice, or one that was seen; run the peer again")
    return Lists(item_ids, values)


def _start(model: str, place: PeerPlace, out: Path, settings: Mapping[str, Any] | None) -> str:
    """Runs the peer, which tunes where it is given no settings; returns why it failed, or nothing."""
    out.mkdir(parents=True, exist_ok=True)
    command = [str(place.python), str(PROGRAM), "--rows", str(place.rows), "--model", model, "--out", str(out)]
    command += ["--budget-minutes", f"{place.budget_minutes:g}"]
    if settings is not None:
        (out / "settings.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
        command += ["--settings", str(out / "settings.json")]
    log.info("peer %s: %s", model, " ".join(command))
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"exit code {done.returncode}, {lines[-1] if lines else 'without a word'}"
    return "" if (out / RUN_FILE).is_file() else f"wrote no {RUN_FILE}"
