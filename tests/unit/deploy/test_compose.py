"""The compose file has the schema that we use, mirrors `rewardmesh up`, and keeps everything on loopback."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from deploy.embedded_server import server_arguments
from deploy.settings import Settings
from rewardmesh.wire.errors import AddressRefused
from rewardmesh.wire.networks import OutgoingPolicy
from tests.integration.compose import ROOT, ComposeFile, LocalService, any_ports, read_compose


def options(command: list[str]) -> dict[str, str]:
    names, values = command[0::2], command[1::2]
    return {name.removeprefix("--"): value for name, value in zip(names, values, strict=True)}


def test_it_has_the_parts_of_a_stack_and_they_wait_for_one_another() -> None:
    compose = read_compose()
    assert list(compose.services) == ["redis", "head", "trainer"]
    assert list(compose.services["head"].depends_on) == ["redis"]
    assert list(compose.services["trainer"].depends_on) == ["head"]
    used = {volume.partition(":")[0] for service in compose.services.values() for volume in service.volumes}
    assert used == set(compose.volumes)


def test_an_unknown_key_or_a_public_port_is_an_error() -> None:
    content = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    content["services"]["head"]["privileged"] = True
    with pytest.raises(ValidationError, match="privileged"):
        ComposeFile.model_validate(content)
    del content["services"]["head"]["privileged"]
    content["services"]["head"]["ports"] = ["8265:8265"]
    with pytest.raises(ValidationError, match="ports"):
        ComposeFile.model_validate(content)


def test_its_buffer_is_configured_like_the_embedded_one(tmp_path: Path) -> None:
    embedded = options(server_arguments(socket=tmp_path / "s", data_dir=tmp_path, appendfsync=Settings().appendfsync))
    composed = options(read_compose().services["redis"].command[1:])
    same = ("appendonly", "appendfsync", "maxmemory-policy", "save", "auto-aof-rewrite-min-size")
    assert {name: composed[name] for name in same} == {name: embedded[name] for name in same}
    assert "requirepass" in composed


def test_no_password_stands_in_it() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"redis://:(?!\$\{)", text)
    assert "requirepass\n      - ${REDIS_PASSWORD:?" in text


def test_the_oracles_token_outlives_the_head() -> None:
    """It is beside the stack's state, which lies in a volume."""
    head = read_compose().services["head"]
    run_root = head.environment["REWARDMESH_RUN_ROOT"]
    assert run_root in {volume.partition(":")[2] for volume in head.volumes}


def test_every_variable_is_one_that_is_read() -> None:
    known = {f"REWARDMESH_{name.upper()}" for name in Settings.model_fields} | {"REDIS_URL", "REDISCLI_AUTH"}
    for service in read_compose().services.values():
        assert set(service.environment) <= known


def test_services_become_local_processes(tmp_path: Path) -> None:
    ports = any_ports()
    head = LocalService("head", folder=tmp_path, ports=ports).environment
    assert head["REDIS_URL"].endswith(f"@127.0.0.1:{ports['6379']}/0")
    assert head["REWARDMESH_HOST"] == head["REWARDMESH_ADVERTISED_HOST"] == "127.0.0.1"
    assert head["REWARDMESH_RUN_ROOT"] == f"{tmp_path}/stack"


def test_the_image_is_built_from_files_that_are_there() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert any(line.startswith("USER ") and "root" not in line for line in lines)
    assert any("--require-hashes" in line for line in lines)


def test_its_containers_may_call_one_another() -> None:
    """Docker's and Podman's networks, and no more: a cloud's metadata stays out of reach."""
    for name in ("head", "trainer"):
        policy = OutgoingPolicy.parse(read_compose().services[name].environment["REWARDMESH_ALLOWED_NETWORKS"])
        for address in ("172.18.0.3", "192.168.16.2", "10.89.0.2"):
            policy.require(ip_address(address), host="head")
        with pytest.raises(AddressRefused):
            policy.require(ip_address("169.254.169.254"), host="metadata")
