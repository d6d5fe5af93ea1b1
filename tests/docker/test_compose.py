"""The compose file: no engine runs here, so its schema, its ports and its settings are checked instead."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.config import GatewayConfig
from offline.commands.ingest import IngestConfig
from recsys.channels import CHANNELS, DEFAULT_CHANNELS
from recsys.config import ENVIRONMENT_PREFIX, PORTS

BUILT = {*PORTS, "offline"}


@pytest.fixture(scope="module")
def services(docker_folder: Path) -> dict[str, dict[str, Any]]:
    """Service by name, YAML anchors resolved."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((docker_folder / "compose.yaml").read_text())["services"]
    return found


def test_the_official_schema_accepts_the_file(docker_folder: Path) -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec/compose-spec.json").read_text())
    schema.pop("$id")
    checker = jsonschema.Draft7Validator(schema)
    compose = yaml.safe_load((docker_folder / "compose.yaml").read_text())
    assert [f"{error.json_path}: {error.message}" for error in checker.iter_errors(compose)] == []
    compose["services"]["gateway"]["port"] = compose["services"]["gateway"].pop("ports")
    assert not checker.is_valid(compose)


def test_every_image_of_ours_is_a_target_of_the_dockerfile(
    services: dict[str, dict[str, Any]], docker_folder: Path
) -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (docker_folder / "Dockerfile").read_text(), re.MULTILINE))
    built = {name: service["build"]["target"] for name, service in services.items() if "build" in service}
    assert set(built) == BUILT
    assert set(built.values()) <= stages
    assert {services[name]["image"] for name in built} == {f"recsys-{target}" for target in built.values()}


def test_images_of_others_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    others = [service["image"] for name, service in services.items() if name not in BUILT]
    assert others
    assert all(re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", image) for image in others)


def test_only_the_gateway_is_public_and_only_on_the_loopback_address(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"gateway", "prometheus", "grafana"}
    assert published["gateway"] == [f"127.0.0.1:{PORTS['gateway']}:{PORTS['gateway']}"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_servers_read_the_bundles_and_write_nothing_but_events(services: dict[str, dict[str, Any]]) -> None:
    writable = {name: [volume for volume in services[name]["volumes"] if not volume.endswith(":ro")] for name in PORTS}
    assert writable == {role: ["events:/data"] if role == "gateway" else [] for role in PORTS}
    assert all("data:/bundles:ro" in services[name]["volumes"] for name in PORTS)
    assert all(services[name]["read_only"] and services[name]["cap_drop"] == ["ALL"] for name in PORTS)


def mounts(service: dict[str, Any]) -> dict[PurePosixPath, str]:
    """What is mounted into a service, by the folder where its containers see it."""
    parts = [volume.split(":") for volume in service.get("volumes", ())]
    return {PurePosixPath(folder): source for source, folder, *_ in parts}


def test_no_volume_is_mounted_below_another_one(services: dict[str, dict[str, Any]]) -> None:
    """The engine would make the folders in between as root, and the image's user could not write next to the mount."""
    folders = {name: mounts(service) for name, service in services.items()}
    assert folders["offline"]
    nested = {(name, f) for name, found in folders.items() for f in found if found.keys() & set(f.parents)}
    assert nested == set()


def test_what_our_volumes_are_mounted_on_belongs_to_the_user_of_the_images(
    services: dict[str, dict[str, Any]], docker_folder: Path
) -> None:
    """A new volume takes over the owner of the image's folder; without one it is root's."""
    dockerfile = (docker_folder / "Dockerfile").read_text()
    (owned,) = re.findall(r"install --directory --owner=recsys .*? (/.*?) \\", dockerfile)
    assert {str(folder) for name in BUILT for folder in mounts(services[name])} == set(owned.split())


def test_the_documented_ingest_reads_the_events_of_the_gateway(
    services: dict[str, dict[str, Any]], docker_folder: Path
) -> None:
    page = (docker_folder.parent / "docs/reference/operations.md").read_text()
    (words,) = re.findall(r"run --rm offline ingest (.*)", page)
    config = IngestConfig.from_arguments(words.split(), "offline ingest")
    (written,) = re.findall(r"RECSYS_EVENTS_FILE=(\S+)", (docker_folder / "Dockerfile").read_text())
    seen = {source: folder / PurePosixPath(written).name for folder, source in mounts(services["offline"]).items()}
    assert mounts(services["gateway"])[PurePosixPath(written).parent] == "events"
    assert str(config.events_from) == str(seen["events"])
    assert mounts(services["offline"])[PurePosixPath(config.root)] == "data"


def test_the_gateway_asks_the_services_at_their_ports(services: dict[str, dict[str, Any]]) -> None:
    environment = services["gateway"]["environment"]
    backends = json.loads(environment["RECSYS_RECALL"]) | {"rank": environment["RECSYS_RANK"]}
    assert backends == {role: f"{role}:{port}" for role, port in PORTS.items() if role != "gateway"}


def test_every_variable_is_a_setting(services: dict[str, dict[str, Any]], docker_folder: Path) -> None:
    known = {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in GatewayConfig.model_fields}
    used = {name for role in PORTS for name in services[role]["environment"]}
    used |= set(re.findall(rf"\b{ENVIRONMENT_PREFIX}\w+", (docker_folder / "Dockerfile").read_text()))
    assert used <= known


def test_channels_that_not_every_bundle_has_start_on_demand(services: dict[str, dict[str, Any]]) -> None:
    on_demand = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert on_demand == {name: [name] for name in ({*CHANNELS, "offline"} - {*DEFAULT_CHANNELS})}
    assert {"als", "content"} <= set(on_demand)
    assert services["gateway"]["depends_on"] == [*DEFAULT_CHANNELS, "rank"]
