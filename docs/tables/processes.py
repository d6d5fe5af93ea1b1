"""What follows from the registry of channels: image targets, Compose services, scrape targets, tables of processes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from recsys.channels import CHANNELS, DEFAULT_CHANNELS
from recsys.config import METRICS_PORTS, PORTS
from tables.markdown import quoted, table

ROOT = Path(__file__).resolve().parents[2]
ON_DEMAND = tuple(name for name in CHANNELS if name not in DEFAULT_CHANNELS)
"""Channels that not every bundle has."""

_IMAGE = """FROM serving AS recall-{name}
COPY --from=project /project /project
{install}
USER 10001:10001
EXPOSE {port} {metrics_port}
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \\
    CMD ["python", "-m", "recsys.server.healthcheck", "127.0.0.1:{port}"]
ENTRYPOINT ["python", "-m", "recall_server", "--channel", "{name}"]"""
_INSTALL = "RUN pip install --no-index --find-links /project --no-deps recsys-serving"
_INSTALL_EXTRA = """RUN --mount=type=bind,from=serving-wheels,source=/wheels,target=/wheels \\
    pip install --no-index --find-links /wheels --find-links /project "recsys-serving[{name}]\""""
_SERVICE = """{name}:
  <<: *server
  image: recsys-recall-{name}
  build: {{context: .., dockerfile: docker/Dockerfile, target: recall-{name}}}
{profile}  environment: *environment
  volumes: ["data:/bundles:ro"]"""


def extras() -> frozenset[str]:
    """Channels with libraries of their own: an extra of that name in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return frozenset(CHANNELS) & frozenset(project["optional-dependencies"])


def images() -> str:
    """One target of the Dockerfile per channel."""
    return "\n\n".join(
        _IMAGE.format(
            name=name,
            install=(_INSTALL_EXTRA if name in extras() else _INSTALL).format(name=name),
            port=PORTS[name],
            metrics_port=METRICS_PORTS[name],
        )
        for name in CHANNELS
    )


def wheels() -> str:
    """What the serving images install besides what every server needs."""
    names = " ".join([*(name for name in CHANNELS if name in extras()), "rank"])
    return f'ARG SERVING_EXTRAS="{names}"'


def services() -> str:
    """One Compose service per channel; those that not every bundle has are started by a profile of their name."""
    return "\n\n".join(
        _SERVICE.format(name=name, profile="" if name in DEFAULT_CHANNELS else f"  profiles: [{name}]\n")
        for name in CHANNELS
    )


def targets() -> str:
    """Where the gateway of Compose finds the channels: a JSON object."""
    return "RECSYS_RECALL: >-\n  " + json.dumps({name: f"{name}:{PORTS[name]}" for name in CHANNELS})


def depends_on() -> str:
    """The services that start with the gateway."""
    return f"depends_on: [{', '.join([*DEFAULT_CHANNELS, 'rank'])}]"


def scraped() -> str:
    """One scrape job per process, named after its role; its host, too, is called so."""
    return "\n".join(
        f'- job_name: {role}\n  static_configs: [{{targets: ["{role}:{port}"]}}]'
        for role, port in METRICS_PORTS.items()
    )


def server_down() -> str:
    """The alert of a server that is down; a channel that not every bundle has counts while the gateway calls it."""
    usual, on_demand = "|".join([*DEFAULT_CHANNELS, "rank"]), "|".join(ON_DEMAND)
    return f"""- alert: RecsysServerDown
  # A channel that not every bundle has counts only while the gateway calls it.
  expr: >-
    up{{job=~"{usual}"}} == 0
    or (up{{job=~"{on_demand}"}} == 0 and on (job) label_replace(
    rate(recsys_stage_seconds_count{{job="gateway", stage=~"recall:.*"}}[1m]) > 0,
    "job", "$1", "stage", "recall:(.*)"))
  for: 30s
  labels: {{severity: warning}}
  annotations:
    summary: "{{{{ $labels.job }}}} cannot be scraped; answers are degraded, not failing."
    action: Look at its log; the gateway uses it again by itself as soon as it is healthy."""


def processes() -> str:
    """Every process: what it serves, where, its image, and the extra that its libraries are in."""
    services = {"gateway": "RecommendationService", "rank": "RankService"}
    own = {"rank": "rank", **{name: name for name in extras()}}
    rows = [
        [
            quoted(role),
            quoted(services.get(role, "RecallService")),
            str(port),
            str(METRICS_PORTS[role]),
            quoted(f"recall-{role}" if role in CHANNELS else role),
            quoted(own.get(role, "")) or "none",
            f"with `--profile {role}`" if role in ON_DEMAND else "always",
        ]
        for role, port in PORTS.items()
    ]
    return table(["process", "service", "gRPC port", "metrics port", "image", "extra", "started by Compose"], rows)
