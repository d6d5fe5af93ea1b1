"""Renamed settings of the offline verbs: an old key is refused, and the error names the new one.

Keys are dotted, `section.field`, as in a TOML file; flags and environment variables follow from them.
"""

from __future__ import annotations

from collections.abc import Mapping

_POOLED = (
    "embedding_size",
    "heads",
    "hidden",
    "dropout",
    "event_dropout",
    "id_dropout",
    "cold_fraction",
    "half_lives_days",
    "moments",
    "moment_share",
    "recency_half_life_days",
    "examples_per_user",
    "targets",
    "batch_size",
    "sampled_negatives",
    "learning_rate",
    "averaging",
    "reg",
    "epochs",
    "patience",
    "refit_epochs",
    "continue_epochs",
    "validation_fraction",
)
"""Moved from [two_tower] to [two_tower.pooled]."""

_SEQUENCE = (
    "size",
    "blocks",
    "heads",
    "temperature",
    "dropout",
    "id_dropout",
    "text",
    "loss",
    "negatives",
    "calibration",
    "events",
    "learning_rate",
    "reg",
    "warmup",
    "averaging",
    "epochs",
    "patience",
    "refit_epochs",
    "continue_epochs",
    "refit_rate",
)
"""Moved from [two_tower], where they began with `sequence_`, to [two_tower.sequence]."""

RENAMED_SETTINGS: Mapping[str, str] = {
    **{f"two_tower.{name}": f"two_tower.pooled.{name}" for name in _POOLED},
    **{f"two_tower.sequence_{name}": f"two_tower.sequence.{name}" for name in _SEQUENCE},
    "two_tower.least_examples": "two_tower.pooled.min_examples",
    "two_tower.most_examples": "two_tower.pooled.max_examples",
    "two_tower.precision": "two_tower.sequence.precision",
    "two_tower.index_links": "two_tower.hnsw_m",
    "two_tower.index_ef_construction": "two_tower.hnsw_ef_construction",
    "split.judging_share": "split.selection_validation_share",
    "itemcf.least_value": "itemcf.min_value",
    "als.least_value": "als.min_value",
}
"""Old key: new key."""
