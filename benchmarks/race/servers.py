"""What takes part: how each server is started, what it is sent, and what comes back."""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
from prometheus_client.parser import text_string_to_metric_families

from race.http2 import without_request_id
from race.processes import tree
from recsys import kernels
from recsys.v1.recommend_pb2 import RecommendRequest, RecommendResponse

CHECKOUT = Path(__file__).resolve().parents[2]
BENCHMARKS = CHECKOUT / "benchmarks"
METHOD = "/recsys.v1.RecommendationService/Recommend"
START_SECONDS = 180.0
SUPERVISOR = "supervisor"
"""Part of our servers that starts them, watches them and starts them again."""
TRIES = 20
"""How often a body that is to be compared is asked for until it is complete."""
NUMPY_KERNELS = {kernels.FORCE_NUMPY: "1"}
"""Environment that makes a process use numpy and ONNX Runtime in place of our compiled kernels."""
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


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
    """A caller gives up then; callers that can say so to the server do."""
    budget_seconds: float | None = None
    """Of our gateways; None: their default."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a load generator must know."""

    address: str
    """HOST:PORT."""
    path: str
    headers: Mapping[str, str]
    body: bytes
    """Of the request; empty for GET."""
    grpc: bool
    """HTTP/2 with several requests per connection; otherwise HTTP/1.1 with one at a time."""


class Server(ABC):
    """One server that takes part."""

    resident = True
    """Whether it runs on while others are measured; False where it would disturb them."""

    def __init__(self, name: str, setting: Setting) -> None:
        self.name = name
        self.setting = setting
        self.folder = setting.folder / name.replace(" ", "-")
        self.parts: dict[str, list[int]] = {}
        """Process ids by the name of the part; empty while it does not run."""
        self._running = ExitStack()

    @abstractmethod
    def start(self) -> None:
        """Returns when it answers; raises RuntimeError where it does not."""

    @abstractmethod
    def target(self, user_id: int) -> Target:
        """What asks for this user's recommendations."""

    @abstractmethod
    def body(self, user_id: int) -> bytes:
        """A complete answer, without what differs from answer to answer; raises RuntimeError where it gives none."""

    @abstractmethod
    def item_ids(self, body: bytes) -> list[int]:
        """The items of a body, best first."""

    def outcomes(self) -> Counter[str]:
        """Requests so far by how they ended, as the server counts them; empty where it does not."""
        return Counter()

    def stop(self) -> None:
        """Ends all its processes."""
        self._running.close()
        self.parts = {}

    def spawn(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> subprocess.Popen[str]:
        """A process that `stop` ends; what it writes to standard error goes to its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self._running.enter_context((self.folder / "output.log").open("w"))
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**os.environ, **_ENVIRONMENT, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self._running.callback(end, process)
        return process

    def not_started(self) -> RuntimeError:
        """With the last line of its log."""
        log = self.folder / "output.log"
        lines = log.read_text(errors="replace").split("\n") if log.exists() else []
        return RuntimeError("did not start: " + next((line for line in reversed(lines) if line.strip()), "no output"))


def end(process: subprocess.Popen[str]) -> None:
    """Closes its standard input and terminates it; kills it where that does not help."""
    if process.stdin is not None:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Checkout(Server):
    """The servers of a checkout of this project, as `make serve` starts them."""

    def __init__(self, name: str, setting: Setting, checkout: Path = CHECKOUT, *, workers: str = "") -> None:
        """`workers`: as for `offline serve`."""
        super().__init__(name, setting)
        self._checkout = checkout
        self._workers = workers
        self._addresses: Iterator[str] = iter(())
        self._metrics: list[str] = []

    def start(self) -> None:
        """See `Server`."""
        budget = self.setting.budget_seconds
        arguments = [
            *(sys.executable, "-m", "race.serve_checkout", "--bundles", str(self.setting.bundles)),
            *("--folder", str(self.folder)),
            *(("--budget-seconds", f"{budget:g}") if budget else ()),
            *(("--workers", self._workers) if self._workers else ()),
        ]
        process = self.spawn(arguments, {"PYTHONPATH": f"{self._checkout}:{BENCHMARKS}"}, self._checkout)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise self.not_started()
        ready = json.loads(line)
        self._addresses = itertools.cycle(ready["targets"])
        self._metrics = [place for name, place in ready["metrics"].items() if name.startswith("gateway")]
        self.parts = {name: tree(pid) for name, pid in ready["pids"].items()}
        servers = {pid for pids in self.parts.values() for pid in pids}
        others = [pid for pid in tree(process.pid) if pid not in servers | {process.pid}]
        self.parts[SUPERVISOR] = others or [process.pid]  # older checkouts have a process of its own for it

    def target(self, user_id: int) -> Target:
        """See `Server`; of several gateways, each in turn."""
        message = self._request(user_id).SerializeToString()
        framed = struct.pack(">BI", 0, len(message)) + message
        headers = {
            "content-type": "application/grpc",
            "te": "trailers",
            "grpc-timeout": f"{round(self.setting.deadline_seconds * 1e3)}m",
        }
        return Target(next(self._addresses), METHOD, headers, framed, grpc=True)

    def body(self, user_id: int) -> bytes:
        """See `Server`."""
        with grpc.insecure_channel(next(self._addresses)) as channel:
            ask = channel.unary_unary(METHOD, request_serializer=RecommendRequest.SerializeToString)
            for _ in range(TRIES):
                message: bytes = ask(self._request(user_id), timeout=30)
                answer = RecommendResponse.FromString(message)
                if not answer.degraded:
                    return without_request_id(message)
        raise RuntimeError(f"{self.name}: {TRIES} times degraded for user {user_id}: {answer.stages}")

    def item_ids(self, body: bytes) -> list[int]:
        """See `Server`."""
        return [item.item_id for item in RecommendResponse.FromString(body).items]

    def outcomes(self) -> Counter[str]:
        """`ok`, `degraded`, `refused`, `late`, `failed`, and `aborted`: calls that the client gave up."""
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


_OUTCOME_OF_CODE = {"OK": "", "RESOURCE_EXHAUSTED": "refused", "DEADLINE_EXCEEDED": "late", "CANCELLED": "aborted"}


class Floor:
    """The in-process recommender of a checkout, in a process that waits to be asked."""

    def __init__(self, name: str, setting: Setting, checkout: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._setting, self._checkout, self._environment = setting, checkout, dict(environment)
        self._process: subprocess.Popen[str] | None = None

    def start(self, user_ids: Sequence[int]) -> None:
        """Loads the bundle."""
        users = ",".join(str(user_id) for user_id in user_ids)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "race.floor", "--bundles", str(self._setting.bundles), "--users", users),
                *("--count", str(self._setting.count)),
            ],
            cwd=self._checkout,
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": f"{self._checkout}:{BENCHMARKS}", **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def milliseconds(self, batch: int, seconds: float) -> float:
        """CPU milliseconds per request in batches of `batch`."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{batch} {seconds}\n")
        self._process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the floor of {self.name} ended; what it wrote stands above")
        return line

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            end(self._process)
