"""A gateway of a test's own behind a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc

from recsys.v1 import recommend_pb2_grpc


@contextmanager
def serving(gateway: recommend_pb2_grpc.RecommendationServiceServicer) -> Iterator[str]:
    """Serves `gateway` on a free port; yields HOST:PORT."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    recommend_pb2_grpc.add_RecommendationServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
