"""What takes part: how each server is started, what it is asked, and how its answers are read."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
from prometheus_client.parser import text_string_to_metric_families

from offline.local.cluster import free_ports
from race.processes import tree
from recsys.v1.recommend_pb2 import RecommendRequest, RecommendResponse

CHECKOUT = Path(__file__).resolve().parents[2]
BENCHMARKS = CHECKOUT / "benchmarks"
METHOD = "/recsys.v1.RecommendationService/Recommend"
START_SECONDS = 180.0
TRIES = 20
"""How often a list that is to be compared is asked for until it is complete."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
"""On two cores, threads of linear algebra only wait for each other; every server gets the same."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all servers share."""

    bundles: Path
    """Root of the bundle store."""
    folder: Path
    """Where logs go."""
    count: int = 10
    """Items per request."""
    deadline_seconds: float = 1.0
    """An answer that takes longer does not count; callers that can tell it to the server do."""
    budget_seconds: float | None = None
    """Of our gateway; None: its default."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a load generator must know."""

    address: str
    """HOST:PORT."""
    path: str
    """The path of a request, `{user}` and `{count}` filled in."""
    headers: Mapping[str, str]
    body: bytes
    """Of one request; empty for GET."""
    grpc: bool
    """HTTP/2 with several requests per connection; otherwise HTTP/1.1 with one at a time."""


class Server(ABC):
    """One server that takes part. Start it once, stop it once."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name = name
        self.setting = setting
        self.folder = setting.folder / name.replace(" ", "-")
        self.processes: dict[str, int] = {}
        """Process id by the name of its part."""
        self._running = ExitStack()

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers."""

    @abstractmethod
    def target(self, user_id: int) -> Target:
        """What asks for this user's recommendations."""

    @abstractmethod
    def item_ids(self, user_id: int) -> list[int]:
        """A user's items as this server orders them; raises where the answer is not complete."""

    def outcomes(self) -> Counter[str]:
        """Requests so far by how they ended, as the server counts them; empty where it does not."""
        return Counter()

    def stop(self) -> None:
        """Ends all its processes."""
        self._running.close()
        self.processes = {}

    def _spawn(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> subprocess.Popen[str]:
        """A process that ends with this server; what it writes to standard error goes to its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self._running.enter_context((self.folder / "output.log").open("w"))
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**os.environ, **ONE_THREAD, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self._running.callback(_end, process)
        return process


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Checkout(Server):
    """The five processes of a checkout of this project, as `make serve` starts them."""

    def __init__(self, name: str, setting: Setting, checkout: Path = CHECKOUT) -> None:
        super().__init__(name, setting)
        self._checkout = checkout
        self._address = ""
        self._metrics: list[str] = []

    def start(self) -> None:
        """See `Server`."""
        process = self._spawn(
            [
                *(sys.executable, "-m", "race.serve_checkout", "--bundles", str(self.setting.bundles)),
                *("--folder", str(self.folder)),
                *(("--budget-seconds", f"{self.setting.budget_seconds:g}") if self.setting.budget_seconds else ()),
            ],
            {"PYTHONPATH": f"{self._checkout}:{BENCHMARKS}"},
            self._checkout,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} did not start; see {self.folder}")
        ready = json.loads(line)
        self._address, self._metrics = ready["target"], [ready["metrics"]["gateway"]]
        self.processes = ready["pids"]

    def target(self, user_id: int) -> Target:
        """See `Server`."""
        message = self._request(user_id).SerializeToString()
        framed = struct.pack(">BI", 0, len(message)) + message
        headers = {
            "content-type": "application/grpc",
            "te": "trailers",
            "grpc-timeout": f"{round(self.setting.deadline_seconds * 1e3)}m",
        }
        return Target(self._address, METHOD, headers, framed, grpc=True)

    def item_ids(self, user_id: int) -> list[int]:
        """See `Server`."""
        with grpc.insecure_channel(self._address) as channel:
            ask = channel.unary_unary(
                METHOD,
                request_serializer=RecommendRequest.SerializeToString,
                response_deserializer=RecommendResponse.FromString,
            )
            for _ in range(TRIES):
                answer = ask(self._request(user_id), timeout=30)
                if not answer.degraded:
                    return [item.item_id for item in answer.items]
        raise RuntimeError(f"{self.name}: {TRIES} times degraded for user {user_id}: {answer.stages}")

    def outcomes(self) -> Counter[str]:
        """`ok`, `degraded`, `refused`, `failed`, and `aborted`: calls that the client gave up."""
        found: Counter[str] = Counter()
        for address in self._metrics:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
                found += outcomes_of(response.read().decode())
        return found

    def _request(self, user_id: int) -> RecommendRequest:
        return RecommendRequest(user_id=user_id, count=self.setting.count)


def outcomes_of(text: str) -> Counter[str]:
    """How the gateway's calls ended, from the text of its /metrics.

    What was answered is counted by the gateway's own outcomes, everything else by its code: h2load cannot see it, since
    a gRPC error comes with status 200.
    """
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "recsys_requests_total" and sample.labels["outcome"] in ("ok", "degraded"):
                found[sample.labels["outcome"]] += int(sample.value)
            elif sample.name == "recsys_rpc_seconds_count" and sample.labels["method"].endswith("/Recommend"):
                outcome = _OUTCOME_OF_CODE.get(sample.labels["code"], "failed")
                if outcome:
                    found[outcome] += int(sample.value)
    return found


_OUTCOME_OF_CODE = {"OK": "", "RESOURCE_EXHAUSTED": "refused", "CANCELLED": "aborted"}


class OverHTTP(Server):
    """A server that answers GET /recommend with JSON."""

    address = ""
    path = "/recommend?user_id={user}&count={count}"

    def target(self, user_id: int) -> Target:
        """See `Server`."""
        path = self.path.format(user=user_id, count=self.setting.count)
        return Target(self.address, path, {}, b"", grpc=False)

    def item_ids(self, user_id: int) -> list[int]:
        """See `Server`."""
        with urllib.request.urlopen(f"http://{self.address}{self.target(user_id).path}", timeout=30) as response:
            answer = json.load(response)
        if answer["degraded"]:
            raise RuntimeError(f"{self.name}: degraded for user {user_id}")
        return [item["item_id"] for item in answer["items"]]

    def _wait(self, process: subprocess.Popen[str], user_id: int) -> None:
        """Returns when a request is answered; raises RuntimeError where none is in time, or the process has ended."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.item_ids(user_id)
                return
            except (OSError, ValueError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.name} does not answer; see {self.folder}") from None
                time.sleep(0.2)


class Monolith(OverHTTP):
    """FastAPI and uvicorn with the models in each of two workers."""

    WORKERS = 2

    def __init__(self, name: str, setting: Setting, python: Path, *, environment: Mapping[str, str]) -> None:
        """`python`: the interpreter of the peers' environment."""
        super().__init__(name, setting)
        self._python = python
        self._environment = dict(environment)

    def start(self) -> None:
        """See `Server`."""
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        process = self._spawn(
            [
                *(str(self._python), "-m", "uvicorn", "race.monolith:app", "--workers", str(self.WORKERS)),
                *("--port", str(port), "--loop", "uvloop", "--http", "httptools"),
                *("--no-access-log", "--log-level", "warning"),
            ],
            {
                "PYTHONPATH": f"{CHECKOUT}:{BENCHMARKS}",
                "RACE_BUNDLES": str(self.setting.bundles),
                **self._environment,
            },
            CHECKOUT,
        )
        self._wait(process, 1)
        self.processes = {f"process {number}": pid for number, pid in enumerate(tree(process.pid), 1)}
