"""`rewardmesh token`, `oracle` and `dead-letter` on a real buffer, with a real oracle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import structlog
from typer.testing import CliRunner

from deploy import cli
from rewardmesh.kit.app import build_app
from rewardmesh.wire.messages import ScoreFailure
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.context import open_gateway
from tests.contract.conftest import Server, binary_of
from tests.contract.workers import group_of
from tests.unit.reward_workers.test_dialects import serving as foreign
from tests.unit.services.gateway.conftest import Blue, serving

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _logs_of_their_own() -> Iterator[None]:
    """A command logs to the standard error of its own test, which is closed afterwards."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(binary_of("valkey-9.1"), tmp_path / "server")
    server.start()
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    monkeypatch.setenv("REWARDMESH_ALLOWED_NETWORKS", "127.0.0.0/8")
    yield server
    server.kill()


@pytest.fixture
def blue() -> Iterator[str]:
    """A real oracle."""
    with in_a_thread(serving(build_app(Blue()))) as url:
        yield url


@pytest.fixture
def theirs() -> Iterator[str]:
    """A reward server of Flow-Factory's kind."""
    with in_a_thread(foreign(lambda body: {"rewards": [0.5] * len(body["images"])})) as service:
        yield service.url


@contextmanager
def in_a_thread(served: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """A service in a thread with an event loop of its own: the commands have theirs."""
    ready, stop, found = threading.Event(), threading.Event(), []

    async def serve() -> None:
        async with served as one:
            found.append(one)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(60)
    yield found[0]
    stop.set()
    thread.join(30)


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == status, result.output + result.stderr
    return result.stdout if status == 0 else result.output + result.stderr


def test_a_token_is_made_listed_and_revoked(buffer: Server) -> None:
    text = run("token", "create", "--team", "vision", "--scope", "score", "--scope", "admin", "--days", "1").strip()
    token_id = text.split("_")[1]
    assert text.startswith("rmt_")
    listed = run("token", "list")
    assert f"{token_id}  vision  admin, score  50/s  expires" in listed
    assert text not in listed
    assert "is revoked" in run("token", "revoke", token_id)
    assert "REVOKED" in run("token", "list")
    assert "no such token" in run("token", "revoke", "nobody", status=1)
    assert "scopes" in run("token", "create", "--team", "vision", "--scope", "root", status=2)
    assert "names its oracle" in run("token", "create", "--team", "vision", "--scope", "rate", status=2)


def test_an_oracle_from_add_to_remove(buffer: Server, blue: str) -> None:
    assert "keeps to the protocol" in run("oracle", "test", blue)
    assert run("oracle", "list") == ""
    assert "blue 1 is registered" in run("oracle", "add", blue, "--concurrency", "3")
    assert "is registered" in run("oracle", "add", blue, status=1)
    assert '"concurrency": 3' in run("oracle", "show", "blue")
    for command, state in (("pause", "paused"), ("drain", "draining"), ("resume", "active")):
        assert run("oracle", command, "blue") == f"blue is {state}\n"
        assert f"blue  1  {state}  breaker closed  {blue}" in run("oracle", "list")
    assert "removed" in run("oracle", "remove", "blue")
    assert "error:" in run("oracle", "show", "blue", status=1)
    assert "no oracle" in run("oracle", "test", f"{blue}/nowhere", "--deadline-s", "5", status=1)


def test_a_service_of_another_dialect_is_tested_and_added(buffer: Server, theirs: str, tmp_path: Path) -> None:
    service = (theirs, "--dialect", "flow_factory", "--max-batch", "4")
    options = ("--option", "version=v3", "--option", "reward_min=0", "--option", "reward_max=1")
    report = run("oracle", "test", *service, *options)
    assert f"oracle unnamed, version v3 at {theirs}: keeps to the dialect flow_factory" in report
    assert "4 pictures in one request" in report
    assert "FAIL  options" in run("oracle", "test", *service, "--option", "version=v3", status=1)
    assert "KEY=VALUE" in run("oracle", "test", *service, "--option", "version", status=2)
    assert run("oracle", "list") == ""
    secret = tmp_path / "secret"
    secret.write_text("their-secret\n")
    added = run("oracle", "add", *service, *options, "--name", "theirs", "--secret-file", str(secret))
    assert "theirs v3 is registered" in added


def test_a_dead_letter_is_shown_requeued_and_discarded(buffer: Server, tmp_path: Path) -> None:
    async def fail(consumer: str) -> None:
        async with open_gateway(buffer.url, OutgoingPolicy()) as gateway:
            stream = gateway.stream("run")
            await stream.enqueue(group_of("g1", 1), oracles=["blue"])
            (claim,) = await stream.claim("blue", consumer=consumer, max_samples=1, lease_s=30)
            failure = ScoreFailure(sample_id="g1.0", code="oracle_error", detail="broken", retryable=False)
            await stream.settle("blue", consumer=consumer, outcomes=[(claim, failure)], version="1")

    asyncio.run(fail("w1"))
    line = run("dead-letter", "list", "run", "blue")
    assert "g1.0  oracle_error  broken" in line
    letter = line.split()[0]
    picture = tmp_path / "picture"
    assert '"code": "oracle_error"' in run("dead-letter", "show", "run", "blue", letter, "--picture", str(picture))
    assert picture.read_bytes() == bytes([0, 0, 0])
    assert "waits again" in run("dead-letter", "requeue", "run", "blue", letter)
    assert "no such dead letter" in run("dead-letter", "requeue", "run", "blue", letter, status=1)
    asyncio.run(fail("w2"))
    letter = run("dead-letter", "list", "run", "blue").split()[0]
    assert "is dropped" in run("dead-letter", "discard", "run", "blue", letter)
    assert run("dead-letter", "list", "run", "blue") == ""


def test_without_a_buffer_the_commands_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    assert "set REDIS_URL" in run("token", "list", status=1)
