"""What a user can put right is one clear line, before anything is started, and the exit status is 1."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy import cli, parts
from deploy.embedded_server import find_server
from deploy.ports import free_port
from deploy.processes import spawn, stop_processes, wait_until
from deploy.state import read_state
from rewardmesh.wire.errors import WeightsMissing


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("REWARDMESH_") or name in {"REDIS_URL", "RAY_ADDRESS"}]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path / "runs"))
    monkeypatch.setenv("REWARDMESH_DASHBOARD_PORT", "0")
    monkeypatch.setenv("REWARDMESH_SERVE_PORT", "0")
    monkeypatch.setattr(parts, "require_weights", lambda: None)


def refused(*arguments: str) -> str:
    """The one line of a command that must fail."""
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.output
    assert "Traceback" not in result.output
    return errors[0]


def nothing_was_started(tmp_path: Path) -> bool:
    return read_state(tmp_path / "runs" / ".stack") is None


@pytest.fixture
def evicting_server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = [str(find_server().path), "--port", str(port), "--bind", "127.0.0.1", "--maxmemory-policy", "allkeys-lru"]
    process = spawn([*command, "--save", "", "--dir", str(tmp_path)], environment={}, log=tmp_path / "log")
    assert wait_until(lambda: "Ready to accept" in (tmp_path / "log").read_text(), timeout_s=20)
    yield f"redis://127.0.0.1:{port}"
    import psutil

    stop_processes([psutil.Process(process.pid)], grace_s=10)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.iteration=5", ["unknown key run.iteration", "did you mean iterations"]),
        ("run.iterations=many", ["run.iterations", "'many'"]),
        ("run.iterations=0", ["run.iterations", "greater than or equal to 1"]),
    ],
)
def test_a_recipe_that_cannot_be_run(override: str, words: list[str], tmp_path: Path) -> None:
    line = refused("train", "smoke", "--set", override)
    assert all(word in line for word in words)
    assert nothing_was_started(tmp_path)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    assert "no shipped recipe: those are demo" in refused("train", "nothing.yaml")
    assert nothing_was_started(tmp_path)


def test_a_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        monkeypatch.setenv("REWARDMESH_SERVE_PORT", str(held.getsockname()[1]))
        line = refused("up")
    assert "for the oracles, is taken by" in line
    assert "set REWARDMESH_SERVE_PORT" in line
    assert nothing_was_started(tmp_path)


def test_a_buffer_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    assert "the server does not answer" in refused("up")
    assert nothing_was_started(tmp_path)


def test_a_buffer_that_evicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evicting_server: str) -> None:
    monkeypatch.setenv("REDIS_URL", evicting_server)
    assert "maxmemory-policy is allkeys-lru" in refused("up")
    assert nothing_was_started(tmp_path)


def test_weights_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise WeightsMissing("file of weights is missing", "detector.safetensors", "restore it")

    monkeypatch.setattr(parts, "require_weights", missing)
    assert refused("up") == "error: file of weights is missing (detector.safetensors): restore it"
    assert nothing_was_started(tmp_path)


def test_a_run_that_is_not_there() -> None:
    assert "there is no such run (nothing)" in refused("evaluate", "nothing")
