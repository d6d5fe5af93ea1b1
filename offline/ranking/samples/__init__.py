"""The ranker's training data: recall's real output at an earlier cut-off, labelled by what users did next.

arrays       the samples of many requests, as memory-mapped files
collection   recall's output with the features that serving computes, and its labels
negatives    a part of what is not relevant, mixed from recall, popular and any items
shards       the same by several processes in bounded memory, the same bytes for any number of them
"""

from __future__ import annotations

from offline.ranking.samples.arrays import (
    ARRAYS,
    HISTORY_ARRAYS,
    HISTORY_LENGTH,
    SampleHistories,
    Samples,
    SampleWriter,
)
from offline.ranking.samples.collection import (
    Collector,
    collect,
    feature_store,
    record_queries,
    relevant_lists,
    save_features,
)
from offline.ranking.samples.config import SamplesConfig
from offline.ranking.samples.shards import SampleInputs, blocks_of, sample_fold, write_samples

__all__ = [
    "ARRAYS",
    "HISTORY_ARRAYS",
    "HISTORY_LENGTH",
    "Collector",
    "SampleHistories",
    "SampleInputs",
    "SampleWriter",
    "Samples",
    "SamplesConfig",
    "blocks_of",
    "collect",
    "feature_store",
    "record_queries",
    "relevant_lists",
    "sample_fold",
    "save_features",
    "write_samples",
]
