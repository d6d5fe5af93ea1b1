"""`offline check-skew`: the features of a running rank server against those that training computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from pydantic import Field
from tqdm import tqdm

from gateway.pipeline.request import Request
from offline.commands.live_requests import live_requests
from offline.commands.output import say
from offline.commands.skew import COUNT, Difference, differences, drawn_requests, record_queries, training_store
from offline.commands.verb import Verb
from offline.workflow.config import OfflineConfig, Purpose
from recsys import convert
from recsys.bundle import Bundle
from recsys.config import PORTS
from recsys.domain import Floats32, RankQuery
from recsys.errors import ContractBroken, Unreachable
from recsys.features import FeatureStore
from recsys.v1 import rank_pb2
from recsys.v1.rank_pb2_grpc import RankServiceStub

CALL_SECONDS = 30.0
"""Longest wait for one answer: this is a check, not a measurement."""
SHOWN = 5
"""Features that are named, worst first."""
MAX_MESSAGE_BYTES = 64 << 20


class SkewConfig(OfflineConfig):
    """Compare the features of a running rank server with training's."""

    main_settings = (
        "rank",
        "purpose",
        "requests",
        "live",
        "live_from",
        "tolerance",
        "seed",
        "dataset",
        "root",
        "config",
    )

    rank: str = Field(default=f"127.0.0.1:{PORTS['rank']}", description="HOST:PORT of the rank server to check")
    purpose: Purpose = Field(default="production", description="which kind of bundle the rank server serves")
    requests: int = Field(
        default=50,
        ge=1,
        description="number of users, sampled with the seed, or of latest requests with --live; one user without a "
        "history is added",
    )
    live: bool = Field(
        default=False, description="check the latest requests that a gateway answered, instead of sampled users"
    )
    live_from: Path | None = Field(
        default=None,
        description="folder with that gateway's events and answers, implies --live; by default the one that `serve` "
        "writes",
    )
    tolerance: float = Field(
        default=1e-5, ge=0, description="largest allowed difference of a feature; relative where its value exceeds 1"
    )


def check_skew(config: SkewConfig) -> None:
    """Says that there is no skew.

    Raises:
        ContractBroken: a feature differs by more than the tolerance, or names or their order do; names the worst.
        BundleMissing: the version that the server serves is not among the bundles of `purpose`.
        DataMissing: there is no answer with that version, where the latest ones are asked for.
        Unreachable: nothing answers at `rank`, or it serves no bundle.
    """
    with _rank_server(config.rank) as stub:
        version = _active_version(stub, config.rank)
        bundle = config.store(config.purpose).open(version)
        queries = record_queries(bundle, _requests(bundle, config))
        served = _served_features(stub, config.rank, bundle, queries)
    parties = {"bundle": FeatureStore.open(bundle.folder), "training": training_store(bundle, config)}
    complaints = []
    for party, store in parties.items():
        if store is not None:
            found = differences(queries, served, [store.features(query) for query in queries], store.feature_names)
            bad = [difference for difference in found if difference.amount > config.tolerance]
            say(f"bundle {version} at {config.rank}, against {party}: largest difference {found[0].amount:.1e}")
            _say_worst(found)
            complaints += [f"against {party}, {len(bad)} features: {'; '.join(map(str, bad[:SHOWN]))}"] if bad else []
    if complaints:
        raise ContractBroken(
            f"skew in bundle {version} at {config.rank}: {' | '.join(complaints)}; run the same version of the "
            "software everywhere, then train and publish again"
        )
    say(f"no skew in {len(queries)} requests × {len(bundle.manifest.feature_names)} features")


def _requests(bundle: Bundle, config: SkewConfig) -> list[Request]:
    if config.live or config.live_from:
        folder = config.live_from or config.events_file.parent
        return live_requests(bundle, folder, config.requests, count=COUNT)
    return drawn_requests(bundle, config.requests, config.seed)


@contextmanager
def _rank_server(target: str) -> Iterator[Any]:
    """A stub of the rank server at `target`; what fails in a call is raised as Unreachable."""
    with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]) as channel:
        try:
            yield RankServiceStub(channel)
        except grpc.RpcError as error:
            reason = f"{error.code().name}: {error.details()}"
            raise Unreachable(f"no answer of a rank server at {target} ({reason}); check --rank") from error


def _active_version(stub: Any, target: str) -> str:
    version: str = stub.Status(rank_pb2.RankServiceStatusRequest(), timeout=CALL_SECONDS).status.active_version
    if not version:
        raise Unreachable(f"the rank server at {target} serves no bundle yet; see what its Status says")
    return version


def _served_features(
    stub: Any, target: str, bundle: Bundle, queries: Sequence[RankQuery]
) -> list[tuple[tuple[str, ...], Floats32]]:
    """Names and matrix per query, as the rank server has them. One query a call, as the gateway asks."""
    answers = []
    for query in tqdm(queries, desc="rank", unit="request", leave=False, disable=None):
        message = convert.rank_query_to_proto(query, return_features=True)
        request = rank_pb2.RankRequest(bundle_version=bundle.version, queries=[message], request_id="check-skew")
        response = stub.Rank(request, timeout=CALL_SECONDS)
        if response.bundle_version != bundle.version or len(response.results) != 1:
            raise ContractBroken(
                f"{target}: {len(response.results)} results of bundle {response.bundle_version}, expected one of "
                f"{bundle.version}; restart the process"
            )
        answers.append(convert.rank_features_from_proto(response.results[0]))
    return answers


def _say_worst(found: Sequence[Difference]) -> None:
    for difference in found[:SHOWN]:
        if difference.amount > 0:
            say(f"  {difference.amount:.1e}  {difference}")


VERB = Verb(SkewConfig, check_skew)
