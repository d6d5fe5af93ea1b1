"""Every rpc of every port of a running system, and how each kind of call is made without a message class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from recsys.v1 import rank_pb2, recall_pb2, recommend_pb2
from tests.faults.system import System

_SERVICES = {
    "gateway": recommend_pb2.DESCRIPTOR.services_by_name["RecommendationService"],
    "rank": rank_pb2.DESCRIPTOR.services_by_name["RankService"],
}
_RECALL = recall_pb2.DESCRIPTOR.services_by_name["RecallService"]
_OF_ALL = (
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc of one process."""

    role: str
    target: str
    path: str
    request: type[Message]
    response: type[Message]
    streams: bool
    """Whether answers are a stream that need not end: it is given up after the first."""
    takes_stream: bool


def methods(system: System) -> list[Method]:
    """All of them, in a fixed order."""
    return list(_methods(system))


def _methods(system: System) -> Iterator[Method]:
    for role in system.roles:
        for service in (_SERVICES.get(role, _RECALL), *_OF_ALL):
            for method in service.methods:
                yield Method(
                    role,
                    system.ports.target(role),
                    f"/{service.full_name}/{method.name}",
                    _class_of(method.input_type),
                    _class_of(method.output_type),
                    bool(method.server_streaming),
                    bool(method.client_streaming),
                )


def _class_of(descriptor: Any) -> type[Message]:
    found = descriptor_pool.Default().FindMessageTypeByName(descriptor.full_name)
    return message_factory.GetMessageClass(found)
