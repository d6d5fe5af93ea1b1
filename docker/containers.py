"""One container of an image, under Docker or, where no engine runs, under buildah with the network of the host."""

from __future__ import annotations

import json
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import psutil

STOP_SECONDS = 20


def output_of(*command: str) -> str:
    """What a command prints; its own words where it fails."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {finished.returncode}\n{finished.stdout}{finished.stderr}")
    return finished.stdout


class Container(ABC):
    """A container that can be started, looked into and stopped."""

    def __init__(self, image: str, log: Path) -> None:
        self.image = image
        self.log = log
        self.settings = self._settings()

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """The image's configuration: Entrypoint, User, StopSignal, Healthcheck, as Docker names them."""

    @abstractmethod
    def start(self, environment: dict[str, str], mounts: dict[Path, str]) -> None:
        """Runs the entry point in the background; folders are mounted read-only."""

    @abstractmethod
    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as the image's user."""

    @abstractmethod
    def stop(self) -> int:
        """Sends SIGTERM to the server and returns its exit code."""

    @abstractmethod
    def remove(self) -> None:
        """Leaves nothing behind."""

    @abstractmethod
    def size(self) -> str:
        """Size of the image, the base included."""


class DockerContainer(Container):
    """Under an engine."""

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = json.loads(output_of("docker", "image", "inspect", self.image))[0]["Config"]
        self._name = output_of("docker", "create", "--network", "none", self.image).strip()
        return settings

    def start(self, environment: dict[str, str], mounts: dict[Path, str]) -> None:
        self.remove()
        options = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        options += [word for path, inside in mounts.items() for word in ("--volume", f"{path}:{inside}:ro")]
        self._name = output_of("docker", "run", "--detach", "--network", "host", *options, self.image).strip()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        running = output_of("docker", "inspect", "--format", "{{.State.Running}}", self._name).strip() == "true"
        if running:
            words = ["docker", "exec", self._name, *command]
        else:
            words = ["docker", "run", "--rm", "--entrypoint", command[0], self.image, *command[1:]]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def stop(self) -> int:
        output_of("docker", "stop", "--time", str(STOP_SECONDS), self._name)
        return int(output_of("docker", "inspect", "--format", "{{.State.ExitCode}}", self._name))

    def remove(self) -> None:
        self.log.write_text(output_of("docker", "logs", self._name))
        output_of("docker", "rm", "--force", self._name)

    def size(self) -> str:
        return output_of("docker", "images", "--format", "{{.Size}}", self.image).strip()


class BuildahContainer(Container):
    """Without an engine: chroot isolation, so the process is an ordinary child that signals can reach."""

    def _settings(self) -> dict[str, Any]:
        self._name = output_of("buildah", "from", "--pull-never", self.image).strip()
        self._process: subprocess.Popen[bytes] | None = None
        inspected = json.loads(output_of("buildah", "inspect", "--type", "image", self.image))
        settings: dict[str, Any] = inspected["Docker"]["config"]
        return settings

    def start(self, environment: dict[str, str], mounts: dict[Path, str]) -> None:
        options = [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
        options += [word for path, inside in mounts.items() for word in ("--volume", f"{path}:{inside}:ro")]
        command = ["buildah", "run", "--isolation", "chroot", *options, self._name, "--", *self.settings["Entrypoint"]]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        words = ["buildah", "run", "--isolation", "chroot", self._name, "--", *command]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def stop(self) -> int:
        if self._process is None:
            raise SystemExit(f"{self.image}: was not started")
        self._server().terminate()
        return self._process.wait(STOP_SECONDS)

    def _server(self) -> psutil.Process:
        """The server among the children of `buildah run`: the last to be started."""
        assert self._process is not None
        entry = self.settings["Entrypoint"][1:]
        children = psutil.Process(self._process.pid).children(recursive=True)
        [server] = [child for child in children if child.cmdline()[1 : 1 + len(entry)] == entry]
        return server

    def remove(self) -> None:
        if self._process is not None and self._process.poll() is None:
            for child in reversed(psutil.Process(self._process.pid).children(recursive=True)):
                child.kill()
            self._process.wait(STOP_SECONDS)
        output_of("buildah", "rm", self._name)

    def size(self) -> str:
        return output_of("buildah", "images", "--noheading", "--format", "{{.Size}}", self.image).strip()


ENGINES: dict[str, type[Container]] = {"docker": DockerContainer, "buildah": BuildahContainer}


def wait_healthy(container: Container, command: list[str], seconds: float) -> float:
    """Runs the health check of the image until it succeeds; returns how long that took."""
    started = time.monotonic()
    while True:
        checked = container.run(*command)
        if checked.returncode == 0:
            return time.monotonic() - started
        if time.monotonic() - started > seconds:
            log = container.log.read_text(errors="replace")[-4000:]
            raise SystemExit(f"{container.image}: not healthy after {seconds:g} s: {checked.stderr}\n{log}")
        time.sleep(0.5)
