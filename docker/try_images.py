"""Starts the serving images on a published bundle, waits until each is healthy, calls each, stops each with SIGTERM.

`try_images.py --engine docker|buildah --version TAG --bundle-root FOLDER TARGET …`: the last step of `make images`.
It ends with an error where an image holds a training library, runs as root, gives no answer, or does not end with 0,
and where the bundle has nothing for one of them to serve.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from containers import ENGINES, Container, wait_healthy

from offline.local.ports import free_ports
from recsys.bundle import BundleStore, Manifest
from recsys.channels import CHANNELS
from recsys.errors import BundleError
from recsys.v1 import rank_pb2, rank_pb2_grpc, recall_pb2, recall_pb2_grpc, recommend_pb2, recommend_pb2_grpc

ROLES = {**{f"recall-{name}": name for name in CHANNELS}, "rank": "rank", "gateway": "gateway"}
TRAINING_LIBRARIES = ("torch", "lightgbm", "pandas", "sklearn", "duckdb", "onnx", "pyarrow")
USER = "10001"
HEALTHY_SECONDS = 90.0
CALL_SECONDS = 5.0
TRIES = 10

ROOT = Path(__file__).resolve().parents[1]
FIND = "import importlib.util as i, sys; print(*(name for name in sys.argv[1:] if i.find_spec(name)))"
READ = "import sys; from importlib.resources import files; "
READ += "print(*(len((files('offline') / name).read_bytes()) for name in sys.argv[1:]))"


def expect(found: object, expected: object, what: str) -> None:
    """Ends the trial with both sides where they differ."""
    if found != expected:
        raise SystemExit(f"{what}: found {found!r}, expected {expected!r}")


def inspect(container: Container, *, serves: bool) -> None:
    """What holds of an image before it is started."""
    image = container.image
    user = container.run("id", "-u")
    expect(user.stdout.strip(), USER, f"{image}: user, {user.stderr}")
    search = container.run("python", "-c", FIND, *TRAINING_LIBRARIES)
    expect(search.returncode, 0, f"{image}: python, {search.stderr}")
    found = search.stdout.split()
    if serves:
        expect(found, [], f"{image}: training libraries in a serving image")
        expect(container.settings["StopSignal"], "SIGTERM", f"{image}: stop signal")
    else:
        expect(set(TRAINING_LIBRARIES) - {"pandas"} - set(found), set(), f"{image}: libraries that are absent")
        usage = container.run(*container.settings["Entrypoint"], "--help")
        expect(usage.returncode, 0, f"{image}: --help, {usage.stderr}")
        loaded = container.run(
            "python", "-c", "import torch, lightgbm, onnxruntime, hnswlib; print(torch.version.cuda)"
        )
        expect(loaded.stdout.strip(), "None", f"{image}: CUDA of torch, {loaded.stderr}")
        read_package_data(container)
    print(f"{image}: {container.size()}, training libraries: {', '.join(found) or 'none'}")


def read_package_data(container: Container) -> None:
    """Reads, inside the image, the data files of the offline jobs: films, presets and queries."""
    folder = ROOT / "offline"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".py", ".pyc")]
    read = container.run("python", "-c", READ, *(path.relative_to(folder).as_posix() for path in files))
    expect(read.stdout.split(), [str(path.stat().st_size) for path in files], f"{container.image}: data, {read.stderr}")


def released(bundle_root: Path) -> Manifest:
    """What the released bundle says of itself; ends the trial where there is none."""
    store = BundleStore(bundle_root)
    try:
        return store.open(store.release().current).manifest
    except BundleError as error:
        raise SystemExit(f"the images are built, but there is no bundle to try them on: {error}") from None


def serving(containers: dict[str, Container], manifest: Manifest) -> dict[str, Container]:
    """The containers that serve, by role; ends the trial where the bundle has no files for one of them."""
    by_role = {ROLES[target]: container for target, container in containers.items() if target in ROLES}
    missing = [role for role in by_role if role not in manifest.roles]
    if missing:
        raise SystemExit(
            f"bundle {manifest.bundle_version} has nothing for {', '.join(missing)} to serve: publish one with "
            "--serving.channels and their names, or leave their images out of TARGETS"
        )
    return by_role


def environment_of(role: str, ports: dict[str, tuple[int, int]]) -> dict[str, str]:
    """Settings of one server on this machine's loopback address."""
    settings = {
        "RECSYS_HOST": "127.0.0.1",
        "RECSYS_PORT": str(ports[role][0]),
        "RECSYS_METRICS_PORT": str(ports[role][1]),
    }
    if role == "gateway":
        channels = [name for name in CHANNELS if name in ports]
        settings["RECSYS_RECALL"] = json.dumps({name: f"127.0.0.1:{ports[name][0]}" for name in channels})
        settings["RECSYS_RANK"] = f"127.0.0.1:{ports['rank'][0]}"
    return settings


class Caller:
    """One call to each server; what popularity answers is what the others are asked about."""

    def __init__(self, cutoff: int, ports: dict[str, tuple[int, int]]) -> None:
        self._cutoff = cutoff
        self._ports = ports
        self._known: list[int] = []

    def call(self, role: str) -> str:
        """Asks the server of `role` and says what it answered; raises SystemExit where that is not an answer."""
        ask: dict[str, Callable[[grpc.Channel], str]] = {"rank": self._rank, "gateway": self._recommend}
        with grpc.insecure_channel(f"127.0.0.1:{self._ports[role][0]}") as channel:
            started = time.perf_counter()
            answer = ask.get(role, self._recall)(channel)
            return f"{answer} in {(time.perf_counter() - started) * 1e3:.1f} ms"

    def _recall(self, channel: grpc.Channel) -> str:
        history = recall_pb2.RecallQuery(as_of=self._cutoff, count=20)
        history.history.item_ids.extend(self._known[:5])
        request = recall_pb2.RecallRequest(queries=[history])
        answer: Any = recall_pb2_grpc.RecallServiceStub(channel).Recall(request, timeout=CALL_SECONDS)
        found = list(answer.results[0].item_ids)
        expect(len(found), 20, f"candidates of {answer.channel}")
        self._known = self._known or found
        return f"{len(found)} candidates of bundle {answer.bundle_version}"

    def _rank(self, channel: grpc.Channel) -> str:
        query = rank_pb2.RankQuery(as_of=self._cutoff, item_ids=self._known)
        request = rank_pb2.RankRequest(queries=[query])
        answer: Any = rank_pb2_grpc.RankServiceStub(channel).Rank(request, timeout=CALL_SECONDS)
        expect(len(answer.results[0].scores), len(self._known), "scores of rank")
        return f"{len(self._known)} scores of bundle {answer.bundle_version}"

    def _recommend(self, channel: grpc.Channel) -> str:
        request = recommend_pb2.RecommendRequest(count=10)
        request.history.item_ids.extend(self._known[:5])
        stub = recommend_pb2_grpc.RecommendationServiceStub(channel)
        for _ in range(TRIES):  # it finds the other servers by asking them about every second
            answer: Any = stub.Recommend(request, timeout=CALL_SECONDS)
            if not answer.degraded:
                break
            time.sleep(1)
        expect((len(answer.items), answer.degraded), (10, False), f"items and degraded, stages {answer.stages}")
        return f"{len(answer.items)} recommendations, the first {answer.items[0].title!r}"


def serve_all(containers: dict[str, Container], bundle_root: Path, cutoff: int) -> None:
    """Starts every server, by role, gateway last; then health, one call each, and SIGTERM, gateway first."""
    roles = sorted(containers, key=list(ROLES.values()).index)
    numbers = free_ports(2 * len(roles))
    ports = dict(zip(roles, zip(numbers[::2], numbers[1::2], strict=True), strict=True))
    caller = Caller(cutoff, ports)
    for role in roles:
        containers[role].start(environment_of(role, ports), {bundle_root.resolve(): "/bundles"})
    for role in roles:
        check = containers[role].settings["Healthcheck"]["Test"][1:]
        check[-1] = f"127.0.0.1:{ports[role][0]}"
        seconds = wait_healthy(containers[role], check, HEALTHY_SECONDS)
        print(f"{role}: healthy after {seconds:.1f} s more, {caller.call(role)}")
    for role in reversed(roles):
        expect(containers[role].stop(), 0, f"{role}: exit code after SIGTERM")
    print(f"{', '.join(reversed(roles))}: stopped by SIGTERM with exit code 0")


def main() -> None:
    """Looks into every image, then starts the serving ones together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=sorted(ENGINES), required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--bundle-root", type=Path, required=True)
    parser.add_argument("targets", nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
        containers = {}
        for target in options.targets:
            image = f"localhost/recsys-{target}:{options.version}"
            containers[target] = ENGINES[options.engine](image, Path(folder) / f"{target}.log")
            closing.callback(containers[target].remove)
            inspect(containers[target], serves=target in ROLES)
        manifest = released(options.bundle_root)
        serve_all(serving(containers, manifest), options.bundle_root, manifest.cutoff)


if __name__ == "__main__":
    main()
