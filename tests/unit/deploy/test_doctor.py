"""Doctor: each problem with what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy import doctor
from deploy.doctor import diagnose
from deploy.settings import Settings


@pytest.mark.timeout(120)
def test_a_whole_machine_is_looked_at(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        findings = list(diagnose(Settings(run_root=tmp_path, dashboard_port=port, serve_port=0)))
    parts = {finding.part for finding in findings}
    assert {"versions", "machine", "gpu", "disk", "ports", "outgoing", "weights", "buffer", "durability"} <= parts
    taken = [finding for finding in findings if finding.part == "ports" and finding.level == "problem"]
    assert len(taken) == 1
    assert "set REWARDMESH_DASHBOARD_PORT" in taken[0].what_to_do
    assert all(finding.what_to_do for finding in findings if finding.level == "problem")
    assert any("measured on a scratch server" in finding.text for finding in findings)
    assert not [finding for finding in findings if finding.part == "weights" and finding.level == "problem"]


def test_a_foreign_server_is_not_killed(tmp_path: Path) -> None:
    findings = list(diagnose(Settings(run_root=tmp_path, redis_url="redis://127.0.0.1:1")))
    assert [finding.level for finding in findings if finding.part == "buffer"] == ["problem"]
    assert not any("kill -9" in finding.text for finding in findings)


@pytest.mark.parametrize(
    ("host", "networks", "levels", "said"),
    [
        ("127.0.0.1", None, ["ok"], "public addresses, 127.0.0.0/8, ::1/128"),
        ("127.0.0.1", "0.0.0.0/0", ["note"], "every address"),
        ("127.0.0.1", "10.0.0.0/8", ["ok", "problem"], "REWARDMESH_ALLOWED_NETWORKS"),
        ("10.0.0.7", "10.0.0.0/8", ["ok"], "10.0.0.0/8"),
    ],
)
def test_it_shows_which_addresses_are_called(host: str, networks: str | None, levels: list[str], said: str) -> None:
    findings = list(doctor._outgoing(Settings(host=host, allowed_networks=networks)))
    assert [finding.level for finding in findings] == levels
    assert said in " ".join(map(str, findings))
