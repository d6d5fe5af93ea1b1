"""Server reflection that also resolves methods by symbol; the standard Python one resolves only services.

grpcurl and ghz look up `recsys.v1.RecommendationService.Recommend`; without this ghz needs `--proto`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc


class MethodAwarePool:
    """A descriptor pool whose `FindFileContainingSymbol` finds methods as well."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the name is protobuf's
        """The file that defines `symbol`, which may be a method; raises KeyError if there is none."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service_name, _, method_name = symbol.rpartition(".")
            service = self._pool.FindServiceByName(service_name)
            return service.methods_by_name[method_name].containing_service.file

    def __getattr__(self, name: str) -> Any:
        """Everything else is delegated to the pool."""
        return getattr(self._pool, name)


def reflect(server: aio.Server, service_names: Sequence[str]) -> None:
    """Adds the reflection service for `service_names` and for itself."""
    names = (*service_names, reflection.SERVICE_NAME)
    pool: Any = MethodAwarePool(descriptor_pool.Default())
    servicer = reflection.aio.ReflectionServicer(names, pool=pool)  # type: ignore[attr-defined]  # set under a version check
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
