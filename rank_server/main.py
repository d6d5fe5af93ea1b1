"""`python -m rank_server`: wiring only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rank_server.scoring import Ranker
from rank_server.servicer import ROLE, SERVICE_NAME, RankServicer
from recsys.bundle import Bundle, BundleStore, golden
from recsys.config import METRICS_PORTS, PORTS, ServerConfig, metrics_port_field, port_field
from recsys.server.compute import Compute
from recsys.server.server import Process, Service, run
from recsys.server.versions import Versions
from recsys.v1 import rank_pb2_grpc


class RankServerConfig(ServerConfig):
    """The rank server: scores candidates with the ONNX ranker of the released bundle."""

    port: int = port_field(PORTS[ROLE])
    metrics_port: int = metrics_port_field(METRICS_PORTS[ROLE])


async def build(config: RankServerConfig, process: Process) -> list[Service]:
    """The ranker's service, following the released bundle."""

    def check(ranker: Ranker, bundle: Bundle) -> None:
        golden.check_rank(bundle.folder, ranker.score)

    versions: Versions[Ranker] = Versions(
        BundleStore(config.bundle_root), ROLE, Ranker.load, check=check, telemetry=process.telemetry
    )
    compute = Compute(config.compute_threads, ROLE, process.telemetry)
    process.closing.callback(compute.close)
    process.closing.callback(versions.close)
    servicer = RankServicer(versions, compute, process.telemetry)
    versions.follow(config.poll_seconds, process.set_ready, process.loaded)
    return [Service(SERVICE_NAME, partial(rank_pb2_grpc.add_RankServiceServicer_to_server, servicer))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    return run("rank_server", RankServerConfig, build, arguments)
