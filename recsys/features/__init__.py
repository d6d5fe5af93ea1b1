"""The one feature definition of training, evaluation and serving (contract 11).

Nothing here reads a clock: a feature depends on the query's `as_of`, history and candidates, and on arrays that were
computed at the bundle's cut-off. Every feature is finite; where there is nothing to say it is `MISSING`. Opinions from
outside the interaction data (votes, revenue) are never features.
"""

from recsys.features.crosses import FUSED
from recsys.features.items import MISSING, ItemEvents
from recsys.features.store import FACTS_FILE, MATRIX_FILE, FeatureStore

__all__ = ["FACTS_FILE", "FUSED", "MATRIX_FILE", "MISSING", "FeatureStore", "ItemEvents"]
