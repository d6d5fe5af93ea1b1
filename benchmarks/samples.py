"""How fast training samples are made, and in how much memory: a generated log, and recall asked for as many rows.

    python benchmarks/samples.py --rows 10000000 --workers 2 --root /tmp/samples

The log has 20,000 items of Zipf popularity; every user has taken 20 of them before the cut-off and takes 10 after it.
Recall (popularity and ItemCF) and features are trained on the first 20,000 users. Requests come from all users and are
made block by block, so neither the log nor the samples are ever in memory as a whole. About 3 % fewer rows are written
than asked for, since channels return some items in common. 300 million, the default, take about 108 GB of disk. With
less disk, `--at-once ROWS` makes the samples in parts of at most so many rows, each written to disk, read back from
there and removed before the next. A part is a step of a workspace: a killed run continues with the part in which it
stopped, and its figures of speed and memory are of all parts. To measure again, name a new folder.

The digest is that of all arrays of all parts. It is the same for any number of workers.

`--candidates all`, the default, keeps every candidate of a request. `--candidates mixed` keeps the relevant ones and
nine negatives for each of them; `--rows` then counts the candidates that recall returns, and fewer rows are written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gateway.pipeline.request import Request
from offline.dataset.interactions import Interactions, Items, Snapshot
from offline.metrics.ranking import Relevant
from offline.protocols.targets import Targets
from offline.ranking.samples import SampleInputs, Samples, SamplesConfig, feature_store, write_samples
from offline.recall import popularity
from offline.recall.itemcf import training as itemcf
from offline.recall.itemcf.training import ItemCFConfig
from offline.recall.popularity import PopularityConfig
from offline.steps.cost import cpu_seconds
from offline.steps.workspace import Step, Workspace
from recsys.bundle import ChannelPolicy, ServingPolicy
from recsys.bundle.store import sha256_of
from recsys.domain import History, Ids

ITEMS, BEFORE, AFTER, KNOWN_USERS = 20_000, 20, 10, 20_000
CUTOFF, DAY = 1_000 * 86_400, 86_400
COUNT, BLOCK = 200, 256
SAMPLES, PART_FILE = "samples", "part.json"
MARKER = "made-by-benchmarks-samples"
"""File that marks a folder that may be used again."""
POLICY = ServingPolicy(
    channels=tuple(ChannelPolicy(name=name, count=COUNT, weight=1.0) for name in ("popularity", "itemcf")),
    rank_count=300,
    ranking="ranked",
    serving_clock="cutoff",
)


def taken(user: int) -> tuple[Ids, Ids]:
    """What one user takes before and after the cut-off: Zipf within a taste of 2,000 items, or of all."""
    rng = np.random.default_rng([7, user])
    ranks = np.unique(np.floor(np.exp(rng.random(80) * np.log(2_000))).astype(np.int64))
    ids = 1 + (ranks * 10 + (user % 10) * (ranks > 50)) % ITEMS
    ids = rng.permutation(np.unique(ids))[: BEFORE + AFTER]
    return ids[:BEFORE], ids[BEFORE:]


def history(user: int, ids: Ids) -> History:
    """One event a day, up to the cut-off."""
    return History.of(ids, CUTOFF - (len(ids) - np.arange(len(ids))) * DAY - user % DAY, values=1.0 + ids % 5)


def snapshot() -> Snapshot:
    """What recall and features are trained on."""
    histories = [(user, history(user, taken(user)[0])) for user in range(KNOWN_USERS)]
    columns = [
        np.concatenate([getattr(events, name) for _, events in histories]) for name in ("item_ids", "timestamps")
    ]
    users = np.repeat([user for user, _ in histories], [len(events) for _, events in histories])
    values = np.concatenate([events.values for _, events in histories])
    order = np.argsort(columns[1], kind="stable")
    types = np.ones(len(users), np.int8)
    events = Interactions(users, *columns, types, values).take(order)
    ids = np.arange(1, ITEMS + 1)
    genres = np.eye(18, dtype=np.bool_)[ids % 18]
    texts = ids.astype(str).astype(object)
    years = (1930 + ids % 90).astype(np.int16)
    names = tuple(f"g{n:02d}" for n in range(18))
    unknown = np.full(ITEMS, np.nan, np.float32)
    items = Items(ids, texts, texts, years, np.zeros(ITEMS, np.int64), genres, names, None, unknown, unknown)
    return Snapshot.build("generated", CUTOFF, items, events)


def blocks(requests: range) -> Iterator[Targets]:
    """One request each of users `requests`, a block at a time."""
    for start in range(requests.start, requests.stop, BLOCK):
        users = range(start, min(start + BLOCK, requests.stop))
        histories = [taken(user) for user in users]
        relevant = Relevant.of([after for _, after in histories])
        yield Targets(
            [Request(history(u, ids), CUTOFF, 10, user_id=u) for u, (ids, _) in zip(users, histories, strict=True)],
            np.asarray(users, np.int64),
            np.ones(len(users), np.bool_),
            relevant,
            (1.0 + relevant.item_ids % 5).astype(np.float32),
        )


def prepare(folder: Path) -> None:
    """Trains both channels and computes the features."""
    known = snapshot()
    known.catalogue.save(folder)
    popularity.train(known, PopularityConfig(), folder)
    itemcf.train(known, ItemCFConfig(ease_items=0), folder)
    feature_store(known, POLICY).save(folder)


def claim(root: Path) -> Path:
    """The workspace below `root`, which is marked as this benchmark's.

    Raises:
        SystemExit: there is something in `root`, and this benchmark has not made it.
    """
    if root.exists() and not (root / MARKER).is_file() and not (root.is_dir() and next(root.iterdir(), None) is None):
        raise SystemExit(f"{root}: there is something, and not from an earlier run of this; name another --root")
    root.mkdir(parents=True, exist_ok=True)
    (root / MARKER).touch()
    return root / "work"


@dataclass(frozen=True, slots=True)
class Part:
    """Samples that were on disk, and what they cost."""

    rows: int
    columns: int
    requests: int
    size: int
    """Bytes on disk."""
    digest: str
    seconds: float
    cpu_seconds: float
    peaks: tuple[int, int]
    """KiB: the most that this process, and any worker, had held by then."""

    @classmethod
    def made(cls, folder: Path, make: Callable[[], None]) -> Part:
        """Has the samples made, and reads all that is then in `folder`; reading is in no figure."""
        started, used = time.monotonic(), cpu_seconds()
        make()
        seconds, spent = time.monotonic() - started, cpu_seconds() - used
        found, paths = Samples.open(folder), sorted(folder.iterdir())
        return cls(
            len(found.labels),
            found.features.shape[1],
            len(found.groups),
            sum(path.stat().st_size for path in paths),
            _sha256("".join(sha256_of(path) for path in paths)),
            seconds,
            spent,
            tuple(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)),
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def plan(rows: int, at_once: int) -> list[range]:
    """The requests that yield `rows`, in parts of at most `at_once` rows but at least a block; 0: all in one part."""
    requests = max(rows // POLICY.rank_count, 1)
    step = max(at_once // POLICY.rank_count // BLOCK, 1) * BLOCK if at_once else requests
    return [range(start, min(start + step, requests)) for start in range(0, requests, step)]


def part_step(workspace: Workspace, models: Step, requests: range, arguments: argparse.Namespace) -> tuple[Part, bool]:
    """One part, and whether an earlier run made it; its samples stay only where all rows are one part.

    Samples that earlier runs left are removed before new ones are made.
    """
    config = SamplesConfig(shard_requests=BLOCK, candidates=arguments.candidates)
    source = SampleInputs(models.folder, models.folder, POLICY, config)

    def make(folder: Path) -> None:
        for old in workspace.root.glob(f"*part-*/{SAMPLES}"):
            shutil.rmtree(old)
        part = Part.made(
            folder / SAMPLES,
            lambda: write_samples(folder / SAMPLES, source, blocks(requests), workers=arguments.workers),
        )
        (folder / PART_FILE).write_text(json.dumps(asdict(part)), "utf-8")
        if arguments.at_once:
            shutil.rmtree(folder / SAMPLES)

    facts = [requests.start, requests.stop, arguments.workers, bool(arguments.at_once)]
    step = workspace.run("part", make, config=config, facts=facts, inputs=[models])
    return Part(**json.loads((step.folder / PART_FILE).read_text("utf-8"))), step.reused


def main() -> None:
    """Makes the samples and prints what they cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000_000)
    parser.add_argument("--at-once", type=int, default=0, metavar="ROWS", help="most rows on disk; 0: all of them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--candidates", choices=("all", "mixed"), default="all", help="which of a request are kept")
    parser.add_argument("--root", type=Path, required=True, help="new or empty folder, or that of an earlier run")
    arguments = parser.parse_args()
    workspace = Workspace(claim(arguments.root))
    models = workspace.run("models", prepare)
    parts, planned = [], plan(arguments.rows, arguments.at_once)
    for number, requests in enumerate(planned, start=1):
        part, reused = part_step(workspace, models, requests, arguments)
        parts.append(part)
        rows, seconds = sum(part.rows for part in parts), sum(part.seconds for part in parts)
        when = ", made before" if reused else ""
        print(f"part {number} of {len(planned)}: {rows} rows after {seconds:.0f} s{when}", flush=True)
    workspace.prune()
    report(parts)


def report(parts: Sequence[Part]) -> None:
    """Prints rows, speed, memory and disk."""
    rows, size = sum(part.rows for part in parts), sum(part.size for part in parts)
    seconds, used = sum(part.seconds for part in parts), sum(part.cpu_seconds for part in parts)
    print(f"{rows} rows of {parts[0].columns} features, {sum(part.requests for part in parts)} requests")
    print(f"digest {_sha256(''.join(part.digest for part in parts))[:16]}")
    print(f"{rows / seconds:.0f} rows/s, {rows / used:.0f} rows per CPU second, {used:.0f} CPU seconds")
    for column, name in enumerate(("this process", "any worker, at most")):
        print(f"peak memory of {name}: {max(part.peaks[column] for part in parts) / 1024:.0f} MiB")
    largest, hours = max(part.size for part in parts), 3e8 / rows * used / 3_600
    print(f"{size / 1e9:.2f} GB written, at most {largest / 1e9:.2f} GB at a time")
    print(f"300 million rows: {size / rows * 0.3:.0f} GB, {hours:.1f} CPU hours")


if __name__ == "__main__":
    main()
