"""What the compiled kernels save: each against the form that runs without them, on a published bundle.

    python benchmarks/kernels.py data/demo/bundles/production

CPU microseconds a query, medians; the forms take turns. The ranker's features are those of the golden histories and of
200 random candidates each, alone and in batches. ItemCF answers the golden histories, and random ones in catalogues of
other sizes; three random lists of a few hundred items are merged.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, cycle, islice, pairwise
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gateway.pipeline.merge import blend_by_numpy, merge, merge_by_numpy
from rank_server.graphs import open_graph
from rank_server.onnx_graph import OnnxGraph, open_session
from rank_server.scoring import GRAPH_FILE
from recall_server.channels.itemcf import NEIGHBOURS_FILE, WEIGHTS_FILE, ItemCFChannel
from recall_server.channels.links import Links, NumpyLinks, make_links
from recsys.bundle import BundleStore, golden
from recsys.domain import Candidates, RankQuery, RecallResult
from recsys.features import FeatureStore
from recsys.features.reference import ReferenceFeatures
from recsys.features.selection import Selection
from recsys.kernels import COMPILED

if COMPILED:
    from recsys.features.compiled import CompiledFeatures
    from recsys.kernels import _merging

CANDIDATES, COUNT, ROUNDS, SECONDS = 200, 200, 21, 0.02
PAST, NEIGHBOURS = 100, 100
"""Of a random history, and of an item in a random catalogue."""
SIZES = (4_000, 62_000, 300_000, 1_000_000)

Past = tuple[NDArray[np.int64], NDArray[np.float32]]


def microseconds(forms: Mapping[str, Callable[[], object]], queries: int) -> dict[str, float]:
    """CPU time of each form per query, the median of rounds in which all take turns."""
    found: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(ROUNDS):
        for name, run in forms.items():
            started, calls = time.process_time(), 0
            while time.process_time() - started < SECONDS:
                run()
                calls += 1
            found[name].append((time.process_time() - started) / calls / queries * 1e6)
    return {name: median(times) for name, times in found.items()}


def show(what: str, times: Mapping[str, float]) -> None:
    """One line: both forms and how many times faster the second is."""
    (name, slow), (_, fast) = times.items()
    print(f"{what:<44} {name} {slow:8.1f}   compiled {fast:7.1f}   {slow / fast:5.1f} ×")


def random_candidates(query: RankQuery, store: FeatureStore, rng: np.random.Generator) -> RankQuery:
    """The query with random candidates, of which each channel has returned some."""
    shape = (min(CANDIDATES, len(store.catalogue)), len(store.channels))
    item_ids = rng.choice(store.catalogue.item_ids, shape[0], replace=False)
    ranks = rng.integers(0, 2 * CANDIDATES, shape, dtype=np.int32)
    ranks[ranks > CANDIDATES] = 0
    scores = rng.random(shape, np.float32)
    return replace(query, candidates=Candidates.without_seeds(item_ids, store.channels, scores, ranks))


def features(store: FeatureStore, queries: Sequence[RankQuery], used: tuple[int, ...] | None) -> None:
    """All features, those of each group, and those that the ranker uses, by numpy and compiled."""
    ends = list(accumulate((len(names) for names in store.groups.values()), initial=0))
    of_group = {group: tuple(range(*bounds)) for group, bounds in zip(store.groups, pairwise(ends), strict=True)}
    choices = {"all": None, **({"used": used} if used else {}), **of_group}
    for choice, columns in choices.items():
        if columns == ():
            continue
        selection = Selection.of(store.groups, columns)
        numpy, compiled = ReferenceFeatures(store, selection), CompiledFeatures(store, selection)
        for size in (1, 8, 16) if choice in ("all", "used") else (16,):
            batch = queries[:size]
            times = microseconds({"numpy": lambda: numpy(batch), "compiled": lambda: compiled(batch)}, size)  # noqa: B023
            show(f"features, {choice} ({selection.width}), batch of {size}", times)


def ranker(folder: Path) -> None:
    """The ranker's features, and its trees by ONNX Runtime and compiled."""
    store, path, rng = FeatureStore.open(folder), folder / GRAPH_FILE, np.random.default_rng(0)
    known = [query for query in golden.rank_queries(folder) if len(query.history)]
    queries = [random_candidates(query, store, rng) for query in islice(cycle(known), 16)]
    past = np.mean([len(query.history) for query in queries])
    print(f"{CANDIDATES} candidates, {past:.0f} past items")
    graph, judge = open_graph(path), OnnxGraph(open_session(path))
    features(store, queries, graph.used_columns)
    if graph.used_columns is None:
        print(f"trees: {graph.form}")
        return
    every, few = ({"features": store.features_of(queries[:1], columns)} for columns in (None, graph.used_columns))
    times = microseconds({"ONNX Runtime": lambda: judge.run(every), "compiled": lambda: graph.run(few)}, 1)
    show(f"trees, {CANDIDATES} candidates, {few['features'].shape[1]} of {len(store.feature_names)} features", times)


def search_all(links: Links, histories: list[Past]) -> None:
    """Every history once."""
    for rows, weights in histories:
        links.best(rows, weights, COUNT, excluded=rows, passing=None)


def itemcf(what: str, neighbours: NDArray[np.int32], weights: NDArray[np.float32], histories: list[Past]) -> None:
    """Links by numpy and compiled."""
    forms = {"numpy": NumpyLinks(neighbours, weights), "compiled": make_links(neighbours, weights)}
    runs = {name: (lambda links=links: search_all(links, histories)) for name, links in forms.items()}
    show(what, microseconds(runs, len(histories)))


def random_itemcf(items: int) -> None:
    """As many links as a trained catalogue has, from each item to random others."""
    rng = np.random.default_rng(0)
    neighbours = rng.integers(0, items, (items, NEIGHBOURS), dtype=np.int32)
    weights = rng.random((items, NEIGHBOURS), np.float32)
    histories = [(np.sort(rng.choice(items, PAST, replace=False)), rng.random(PAST, np.float32)) for _ in range(16)]
    itemcf(f"itemcf, {PAST} past items, {items:,} items", neighbours, weights, histories)


def random_results() -> dict[str, RecallResult]:
    """What three channels answer, one of them with seeds."""
    rng = np.random.default_rng(0)
    results = {}
    for name in ("popularity", "itemcf", "vector"):
        ids, scores = rng.choice(600, COUNT, replace=False), np.sort(rng.random(COUNT, np.float32))[::-1]
        seeds = (rng.integers(0, 600, COUNT), np.ones(COUNT, np.bool_)) if name == "itemcf" else (None, None)
        results[name] = RecallResult(ids, scores, *seeds)
    return results


def merging() -> None:
    """The lists of three channels as one, and their blended ranks."""
    results, weights = random_results(), np.asarray([0.5, 1.0, 2.0])
    ranks = merge(results).ranks
    runs = {"numpy": lambda: merge_by_numpy(results), "compiled": lambda: merge(results)}
    show(f"merge, 3 channels of {COUNT}", microseconds(runs, 1))
    blends = {
        "numpy": lambda: blend_by_numpy(ranks, weights, 20.0),
        "compiled": lambda: _merging.blend(ranks, weights, 20.0),
    }
    show(f"blend, {len(ranks)} candidates", microseconds(blends, 1))


def main(bundle_root: Path) -> None:
    """Prints a line for each kernel and size."""
    if not COMPILED:
        sys.exit("the kernels are not compiled; install the project where there is a C compiler")
    store = BundleStore(bundle_root)
    folder = store.open(store.release().current).folder
    ranker(folder)
    channel = ItemCFChannel.open(folder)
    histories = [channel.history_weights(query.history) for query in golden.recall_queries(folder, "itemcf")]
    past = f"{np.mean([len(rows) for rows, _ in histories]):.0f}"
    arrays = [np.load(folder / file, mmap_mode="r") for file in (NEIGHBOURS_FILE, WEIGHTS_FILE)]
    itemcf(f"itemcf, {past} past items, {len(channel.catalogue):,} items", *arrays, histories)
    merging()
    for items in SIZES:
        random_itemcf(items)


if __name__ == "__main__":
    with threadpool_limits(1):  # as in a server
        main(Path(sys.argv[1]))
