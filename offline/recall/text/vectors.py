"""Text vectors of a catalogue: one folder that a model reads, and what it needs to make further ones."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from offline.recall.text.cache import VectorCache, content_key
from offline.recall.text.client import EmbeddingClient, Stopped, TooLarge
from offline.recall.text.config import TextConfig
from offline.recall.text.documents import item_documents
from offline.recall.text.local import WordVectors, of_length_one
from recsys.catalogue import Catalogue
from recsys.errors import DataMalformed

log = logging.getLogger(__name__)

VECTORS_FILE = "text/vectors.npy"
FACTS_FILE = "text/facts.json"
WORDS_FILE = "text/words.parquet"
"""Only of the source `local`."""
LOCAL_DIMENSIONS = 64


def text_vectors(
    tables: Path,
    catalogue: Catalogue,
    folder: Path,
    config: TextConfig,
    *,
    cache: Path,
    earlier: Path | None = None,
) -> NDArray[np.float32] | None:
    """Writes `VECTORS_FILE` below `folder`: float32[items, d] by catalogue row, each of length 1 (or 0: no known word).

    `cache` is the file that keeps an endpoint's vectors. With `earlier`, a folder that this wrote for an earlier
    cut-off, local vectors lie in that one's space, so that a tower continued from that cut-off can read them.
    Returns the vectors; None, and writes nothing, for the source `none`.
    """
    if config.source == "none":
        return None
    texts = item_documents(tables, catalogue, max_characters=config.max_characters)
    (folder / VECTORS_FILE).parent.mkdir(parents=True, exist_ok=True)
    if config.source == "local":
        learned = earlier / WORDS_FILE if earlier else None
        words = WordVectors.load(learned) if learned else _learn(texts, config)
        words.save(folder / WORDS_FILE)
        vectors = words.of(texts)
    else:
        with VectorCache(cache) as kept:
            vectors = of_length_one(ask_endpoint(texts, config, kept))
    np.save(folder / VECTORS_FILE, vectors)
    facts = {
        "source": config.source,
        "model": config.model if config.source == "endpoint" else "tf-idf, truncated svd",
        "dimensions": vectors.shape[1],
        "items": len(vectors),
        "empty": int((~vectors.any(axis=1)).sum()),
    }
    (folder / FACTS_FILE).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    return vectors


def _learn(texts: list[str], config: TextConfig) -> WordVectors:
    return WordVectors.fit(texts, config.dimensions or LOCAL_DIMENSIONS, seed=config.seed)


def ask_endpoint(texts: Sequence[str], config: TextConfig, cache: VectorCache) -> NDArray[np.float32]:
    """float32[texts, d]: what the endpoint gives; what `cache` holds is not asked again, and each text once.

    Every batch is kept as it arrives. The first failure that does not pass ends the run with its error; see
    `EmbeddingClient.vectors`. Raises DataMalformed where vectors differ in width.
    """
    stopped = threading.Event()
    client = EmbeddingClient(config, stopped)
    keys = [content_key(t, url=client.url, model=config.model, dimensions=config.dimensions) for t in texts]
    wanted = dict(zip(keys, texts, strict=True))
    found = cache.get(list(wanted))
    missing = [(key, text) for key, text in wanted.items() if key not in found]
    log.info("text vectors: %d of %d texts are kept, %d to ask for", len(found), len(wanted), len(missing))
    batches = [missing[start : start + config.batch_size] for start in range(0, len(missing), config.batch_size)]
    with (
        ThreadPoolExecutor(config.threads, thread_name_prefix="embed") as pool,
        tqdm(total=len(missing), desc="text vectors", unit="text", leave=False, disable=None) as progress,
    ):
        jobs = [pool.submit(_ask_batch, client, batch, cache) for batch in batches]
        try:
            for job in as_completed(jobs):
                with suppress(Stopped):  # the request that failed says why
                    arrived = job.result()
                    found.update(arrived)
                    progress.update(len(arrived))
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return _stacked([found[key] for key in keys], client.url)


def _ask_batch(
    client: EmbeddingClient, batch: Sequence[tuple[bytes, str]], cache: VectorCache
) -> dict[bytes, NDArray[np.float32]]:
    """The vectors of a batch, kept; one that is refused as too large is asked for in halves."""
    try:
        vectors = client.vectors([text for _, text in batch])
    except TooLarge as refusal:
        middle = len(batch) // 2
        log.info("%s; asking for %d and %d texts instead", refusal, middle, len(batch) - middle)
        return {**_ask_batch(client, batch[:middle], cache), **_ask_batch(client, batch[middle:], cache)}
    arrived = {key: vector for (key, _), vector in zip(batch, vectors, strict=True)}
    cache.put(arrived)
    return arrived


def _stacked(vectors: Sequence[NDArray[np.float32]], where: str) -> NDArray[np.float32]:
    widths = sorted({len(vector) for vector in vectors})
    if len(widths) > 1:
        raise DataMalformed(
            f"{where}: vectors of {' and '.join(map(str, widths))} dimensions; the model has changed: "
            "move the file of kept vectors away, or name the model's version"
        )
    return np.stack(vectors) if vectors else np.zeros((0, 1), np.float32)
