"""Messages as a process of the version before packed lists knows them: it neither reads nor writes the later fields."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClassesForFiles

from recsys.v1 import rank_pb2, recall_pb2, recommend_pb2, types_pb2

LATER = {
    "History": {"packed_item_ids", "packed_timestamps", "packed_types", "packed_values"},
    "ServingStatus": {"reads_packed"},
    "RecallRequest": {"packed_results", "timeout_microseconds"},
    "RecallQuery": {"request_id", "packed_exclude_item_ids", "exclude_seen"},
    "RecallResponse": {"packed"},
    "RecallResult": {"packed_item_ids", "packed_scores", "packed_seed_item_ids", "packed_seed_present"},
    "RankRequest": {"packed_results", "timeout_microseconds"},
    "RankQuery": {"request_id", "packed_item_ids", "packed_channels", "packed_scores", "packed_ranks"},
    "RankResponse": {"packed"},
    "RankResult": {"packed_scores", "packed_features"},
}
"""Fields that came with packed lists, by message."""

M = TypeVar("M", bound=Message)


@cache
def classes() -> dict[str, type[Message]]:
    """Message classes by full name, without the `LATER` fields."""
    pool, files = DescriptorPool(), (types_pb2, recall_pb2, rank_pb2, recommend_pb2)
    for module in files:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        for message in file.message_type:
            later = LATER.get(message.name, set())
            kept = [field for field in message.field if field.name not in later]
            assert len(kept) + len(later) == len(message.field), f"{message.name} has not all of {later}"
            del message.field[:]
            message.field.extend(kept)
        pool.Add(file)
    return GetMessageClassesForFiles([module.DESCRIPTOR.name for module in files], pool)


def as_older(message: M) -> M:
    """What is left of a message after an older process has read it, or written it."""
    older = classes()[message.DESCRIPTOR.full_name].FromString(message.SerializeToString())
    older.DiscardUnknownFields()
    return type(message).FromString(older.SerializeToString())
