"""Other servers in front of the same models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from offline.local.ports import free_ports
from race.processes import title_of, tree
from race.servers import BENCHMARKS, CHECKOUT, START_SECONDS, Server, Setting, Target


class OverHTTP(Server):
    """A server that answers GET /recommend with JSON, from the peers' environment."""

    def __init__(self, name: str, setting: Setting, python: Path, environment: Mapping[str, str]) -> None:
        """`python`: the interpreter; `environment`: in addition to where the bundle is."""
        super().__init__(name, setting)
        self.python = python
        self.address = ""
        self._environment = dict(environment)

    @abstractmethod
    def command(self, port: int) -> list[str]:
        """What starts it on a port of this machine."""

    def start(self) -> None:
        """See `Server`."""
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        process = self.spawn(self.command(port), self.environment(), CHECKOUT)
        self._wait(process)
        for one in tree(process.pid):
            self.parts.setdefault(title_of(one), []).append(one)

    def environment(self) -> dict[str, str]:
        """In addition to what all servers get."""
        return {
            "PYTHONPATH": f"{CHECKOUT}:{BENCHMARKS}",
            "RACE_BUNDLES": str(self.setting.bundles),
            **self._environment,
        }

    def target(self, user_id: int) -> Target:
        """See `Server`."""
        return Target(self.address, f"/recommend?user_id={user_id}&count={self.setting.count}", {}, b"", grpc=False)

    def body(self, user_id: int) -> bytes:
        """See `Server`."""
        target = self.target(user_id)
        request = urllib.request.Request(
            f"http://{self.address}{target.path}", data=target.body or None, headers=dict(target.headers)
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            body: bytes = response.read()
        return body

    def item_ids(self, body: bytes) -> list[int]:
        """See `Server`; before the JSON, Triton puts a frame of its own."""
        return [item["item_id"] for item in json.loads(body[body.index(b'{"bundle_version"') :])["items"]]

    def _wait(self, process: subprocess.Popen[str]) -> None:
        """Returns when a request is answered; raises RuntimeError where none is in time, or the process has ended."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.body(1)
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise self.not_started() from None
                time.sleep(0.2)


class Monolith(OverHTTP):
    """FastAPI and uvicorn with the models in each of two workers."""

    WORKERS = 2

    def command(self, port: int) -> list[str]:
        """See `OverHTTP`."""
        return [
            *(str(self.python), "-m", "uvicorn", "race.monolith:app", "--workers", str(self.WORKERS)),
            *("--port", str(port), "--loop", "uvloop", "--http", "httptools"),
            *("--no-access-log", "--log-level", "warning"),
        ]


class RayServe(OverHTTP):
    """Ray Serve with five deployments."""

    resident = False

    def command(self, port: int) -> list[str]:
        """See `OverHTTP`."""
        return [str(self.python), "-m", "race.ray_serve", str(port)]


class Triton(OverHTTP):
    """Triton with two instances of its Python backend, each a process, and dynamic batching.

    Over HTTP with a binary answer; its gRPC costs the same here.
    """

    MODEL = "recommend"

    def command(self, port: int) -> list[str]:
        """See `OverHTTP`; writes the model repository, and puts the backend together with the stub of this Python."""
        wheel, models, backends = self._package() / "tritonserver", self.folder / "models", self.folder / "backends"
        version = "{}.{}".format(*self._says("import sys; print(*sys.version_info[:2])").split())
        shutil.copytree(wheel / "backends", backends, dirs_exist_ok=True)
        shutil.copy(wheel / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
        (models / self.MODEL / "1").mkdir(parents=True, exist_ok=True)
        (models / self.MODEL / "1" / "model.py").write_text(_MODEL, encoding="utf-8")
        (models / self.MODEL / "config.pbtxt").write_text(_CONFIGURATION, encoding="utf-8")
        grpc_port, metrics_port = free_ports(2)
        return [
            *(str(wheel / "bin" / "tritonserver"), f"--model-repository={models}", f"--backend-directory={backends}"),
            *(
                "--http-address=127.0.0.1",
                f"--http-port={port}",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={grpc_port}",
            ),
            f"--metrics-port={metrics_port}",
        ]

    def environment(self) -> dict[str, str]:
        """See `OverHTTP`; the backend finds its environment by PATH, and its interpreter by LD_LIBRARY_PATH."""
        library = self._says("import sysconfig; print(sysconfig.get_config_var('LIBDIR'))")
        return {
            **super().environment(),
            "RACE_COUNT": str(self.setting.count),
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{library}:{self._package().parent / 'nvidia_pytriton.libs'}",
        }

    def target(self, user_id: int) -> Target:
        """See `Server`."""
        request = {
            "inputs": [{"name": "user_id", "shape": [1, 1], "datatype": "INT64", "data": [user_id]}],
            "outputs": [{"name": "body", "parameters": {"binary_data": True}}],
        }
        path = f"/v2/models/{self.MODEL}/infer"
        return Target(
            self.address, path, {"content-type": "application/json"}, json.dumps(request).encode(), grpc=False
        )

    def _package(self) -> Path:
        return Path(
            self._says("import importlib.util as u; print(u.find_spec('pytriton').submodule_search_locations[0])")
        )

    def _says(self, program: str) -> str:
        return subprocess.check_output([str(self.python), "-c", program], text=True).strip()


_MODEL = """\
import os
import sys

sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)  # the backend's interpreter does not read it
from race.triton_model import TritonPythonModel
"""

_CONFIGURATION = """\
backend: "python"
max_batch_size: 16
input [{ name: "user_id", data_type: TYPE_INT64, dims: [ 1 ] }]
output [{ name: "body", data_type: TYPE_STRING, dims: [ 1 ] }]
instance_group [{ count: 2, kind: KIND_CPU }]
dynamic_batching { max_queue_delay_microseconds: 0 }
"""
