"""The command lines of the servers of one machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from offline.local.ports import HOST, ONE_EACH, Ports, WorkerCounts, worker_names
from offline.local.supervision import Program
from recsys.channels import DEFAULT_CHANNELS
from recsys.config import ANSWERS_FILE, EVENTS_FILE


def programs(
    bundle_root: Path,
    events_folder: Path,
    ports: Ports,
    *,
    channels: Sequence[str] = DEFAULT_CHANNELS,
    workers: WorkerCounts = ONE_EACH,
    settings: Mapping[str, str] | None = None,
    role_settings: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Program]:
    """The gateway, one server per recall channel of `channels`, and the rank server; several where `workers` says so.

    `settings` apply to all, `role_settings` to one role: flags without dashes, and values.
    """

    def targets(role: str) -> str:
        return "+".join(ports.target(name) for name in worker_names(role, workers))

    modules = {
        "gateway": (
            "gateway",
            *("--recall", ",".join(f"{name}={targets(name)}" for name in channels)),
            *("--rank", targets("rank")),
            *("--events-file", str(events_folder / EVENTS_FILE)),
            *("--answers-file", str(events_folder / ANSWERS_FILE)),
        ),
        **{name: ("recall_server", "--channel", name) for name in channels},
        "rank": ("rank_server",),
    }
    return [
        Program(
            name,
            (
                "-m",
                *arguments,
                *("--bundle-root", str(bundle_root)),
                *("--port", str(ports.grpc[name])),
                *("--metrics-port", str(ports.metrics[name])),
                "--exit-with-parent",
                *(("--shared-port", str(ports.grpc[role])) if role == "gateway" and name != role else ()),
                *_flags({**(settings or {}), **(role_settings or {}).get(role, {})}),
            ),
            ports.target(name),
            f"{HOST}:{ports.metrics[name]}",
            ports.target(role) if role == "gateway" and name != role else "",
            role,
        )
        for role, arguments in modules.items()
        for name in worker_names(role, workers)
    ]


def _flags(settings: Mapping[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", value)]
