"""Peers: models of others, in an environment of their own, that get the rows and give back lists.

A peer is the command `PYTHON benchmarks/peers/run.py --rows FOLDER --model NAME --out FOLDER --budget-minutes N`. It
writes `lists.parquet` (request, rank from 1, item_id, score) and `run.json` (what it is, chose and cost).
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from offline.benchmark.rows import DIGEST_FILE
from offline.evaluate import Lists
from offline.metrics import LONGEST, NO_ITEM
from offline.targets import Targets
from recsys.domain import Ids
from recsys.errors import ContractBroken

log = logging.getLogger(__name__)

LISTS_FILE, RUN_FILE = "lists.parquet", "run.json"
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
    """None where there are none: `note` says why."""
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
    """Records of earlier tunings, `<model>.json`: where there is one, a peer does not tune again."""
    budget_minutes: float


def run_peer(model: str, place: PeerPlace, targets: Targets, catalogue_ids: Ids) -> PeerRun:
    """Lists of a peer: those of an earlier run on the very same rows, else of one that is started now.

    What a run that tuned has chosen is recorded. Lists of a training that the budget ended are lists, too: the note
    says what it would have needed. Raises ContractBroken where they are not lists of these requests.
    """
    out = place.out / model
    rows = (place.rows / DIGEST_FILE).read_text("ascii")
    made_from = out / DIGEST_FILE
    if not (made_from.is_file() and made_from.read_text("ascii") == rows and (out / RUN_FILE).is_file()):
        if not place.python.is_file() or not PROGRAM.is_file():
            return PeerRun(model, None, "not run: make peers")
        failure = _start(model, place, out)
        if failure:
            return PeerRun(model, None, f"not run: {failure}")
        made_from.write_text(rows, "ascii")
    facts = json.loads((out / RUN_FILE).read_text("utf-8"))
    note = str(facts.get("note") or "")
    if not (out / LISTS_FILE).is_file():
        return PeerRun(model, None, f"not run: {note or 'did not finish within the budget'}", facts)
    lists = read_lists(out / LISTS_FILE, targets, catalogue_ids)
    return PeerRun(model, lists, note, _with_record(model, place, facts))


def _with_record(model: str, place: PeerPlace, facts: dict[str, Any]) -> dict[str, Any]:
    """`facts` with the CPU time of the tuning that chose its settings; a tuning of this very run is recorded."""
    record = place.settings / f"{model}.json"
    if facts.get("trials") and not record.is_file():
        record.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: facts.get(name) for name in ("model", "package", "version", "settings", "cpu_seconds", "trials")}
        record.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    elif record.is_file() and not facts.get("trials"):
        before = json.loads(record.read_text("utf-8"))
        return {**facts, "cpu_seconds": facts["cpu_seconds"] + before["cpu_seconds"]}
    return facts


def read_lists(path: Path, targets: Targets, catalogue_ids: Ids) -> Lists:
    """The lists in a file, by request.

    Raises ContractBroken where a request or item is unknown, a place or item comes twice, or a seen item is listed.
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
        raise ContractBroken(f"{path}: a place is given twice; run the peer again")
    for row, request in enumerate(targets.requests):
        listed = item_ids[row][item_ids[row] != NO_ITEM]
        if len(np.unique(listed)) != len(listed) or np.isin(listed, request.history.seen_item_ids()).any():
            raise ContractBroken(f"{path}: request {row} lists an item twice, or one that was seen; run the peer again")
    return Lists(item_ids, values)


def _start(model: str, place: PeerPlace, out: Path) -> str:
    """Runs the peer; returns why it failed, or nothing."""
    out.mkdir(parents=True, exist_ok=True)
    command = [str(place.python), str(PROGRAM), "--rows", str(place.rows), "--model", model, "--out", str(out)]
    command += ["--budget-minutes", f"{place.budget_minutes:g}"]
    record = place.settings / f"{model}.json"
    if record.is_file():
        chosen = json.loads(record.read_text("utf-8"))["settings"]
        (out / "settings.json").write_text(json.dumps(chosen, indent=1) + "\n", "utf-8")
        command += ["--settings", str(out / "settings.json")]
    log.info("peer %s: %s", model, " ".join(command))
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"exit code {done.returncode}, {lines[-1] if lines else 'without a word'}"
    return "" if (out / RUN_FILE).is_file() else f"wrote no {RUN_FILE}"
