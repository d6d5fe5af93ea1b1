"""The one feature definition of training, evaluation and serving (contract 11).

Nothing here reads a clock: a feature depends on the query's `as_of`, history and candidates, and on arrays that were
computed at the bundle's cut-off. Every feature is finite; where it is unknown it is `MISSING`. Opinions from
outside the interaction data (votes, revenue) are never features.

What a name begins with says what a feature depends on:

item_      the item, at the cut-off (`items`, `item_statistics`, `credits`)
user_      the history, as of the moment (`user`, `sessions`)
cross_     item and history (`crosses`, `similarity`, `credits`, `rating`)
among_     the other candidates of the request (`ranks`)
the rest   the evidence of the recall channels (`crosses.evidence`)
"""

from recsys.features.crosses import FUSED
from recsys.features.events import MISSING, ItemEvents
from recsys.features.store import FACTS_FILE, MATRIX_FILE, FeatureStore

__all__ = ["FACTS_FILE", "FUSED", "MATRIX_FILE", "MISSING", "FeatureStore", "ItemEvents"]
