"""Between protobuf messages and the domain, both ways. Protobuf types go no further than this package's callers.

Invalid input of a caller is refused with an InvalidRequest that names the field; an invalid answer of another of our
processes is refused as ContractBroken. `field` is the path of the message within the request.
"""

from recsys.convert.lists import ids_from_proto
from recsys.convert.rank import (
    candidate_count,
    rank_features_from_proto,
    rank_features_to_proto,
    rank_query_from_proto,
    rank_query_to_proto,
    rank_result_from_proto,
    rank_result_to_proto,
)
from recsys.convert.recall import (
    recall_query_from_proto,
    recall_query_to_proto,
    recall_result_from_proto,
    recall_result_size,
    recall_result_to_proto,
)
from recsys.convert.values import (
    MAX_COUNT,
    MAX_NAMES,
    MAX_QUERIES,
    as_of_from_proto,
    batch_from_proto,
    history_from_proto,
    history_to_proto,
    item_filter_from_proto,
    item_filter_to_proto,
    names_from_proto,
)

__all__ = [
    "MAX_COUNT",
    "MAX_NAMES",
    "MAX_QUERIES",
    "as_of_from_proto",
    "batch_from_proto",
    "candidate_count",
    "history_from_proto",
    "history_to_proto",
    "ids_from_proto",
    "item_filter_from_proto",
    "item_filter_to_proto",
    "names_from_proto",
    "rank_features_from_proto",
    "rank_features_to_proto",
    "rank_query_from_proto",
    "rank_query_to_proto",
    "rank_result_from_proto",
    "rank_result_to_proto",
    "recall_query_from_proto",
    "recall_query_to_proto",
    "recall_result_from_proto",
    "recall_result_size",
    "recall_result_to_proto",
]
