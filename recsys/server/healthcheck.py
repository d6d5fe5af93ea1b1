"""Checks whether a server is healthy: `python -m recsys.server.healthcheck HOST:PORT [SERVICE]`.

For container health checks and scripts. Exit code 0: SERVING; 1: anything else, with one line that says what.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def state(target: str, *, service: str = "", timeout_seconds: float = 2.0) -> str:
    """What `grpc.health.v1` reports for `service` ("": the whole process), or the status code of the failed call."""
    request = health_pb2.HealthCheckRequest(service=service)
    with grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="recsys.server.healthcheck", description="Exit code 0 if a server is healthy."
    )
    parser.add_argument("target", help="HOST:PORT of the gRPC server")
    parser.add_argument("service", nargs="?", default="", help="full service name; default: the whole process")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds to wait for the answer")
    options = parser.parse_args(arguments)
    found = state(options.target, service=options.service, timeout_seconds=options.timeout)
    if found == "SERVING":
        return 0
    print(f"{options.target}: {found}, expected SERVING", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
