"""`rewardmesh status` on a real buffer with a real oracle: once, as JSON, and live."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from deploy import cli
from deploy.settings import Settings
from deploy.status import look, rates
from deploy.status_view import render, watch
from rewardmesh.wire.messages import BreakerBounds, OracleEndpoint, Scored, ScoreFailure
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.context import open_gateway
from tests.contract.conftest import Server, binary_of
from tests.contract.workers import group_of
from tests.oracle_server import OracleServer, Response, ThreadedOracle


class Healthy(OracleServer):
    """With the one route that the view asks."""

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        await reader.readuntil(b"\r\n\r\n")
        response = Response(b'{"status":"ok"}')
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(response.body)}\r\n\r\n".encode() + response.body)
        await writer.drain()
        return True


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A buffer that holds a run, two oracles of which one is well, and what the two made of some samples."""
    server = Server(binary_of("valkey-9.1"), tmp_path / "server")
    server.start()
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("REWARDMESH_RUN_ROOT", str(tmp_path))
    monkeypatch.setenv("REWARDMESH_ALLOWED_NETWORKS", "127.0.0.0/8")
    with ThreadedOracle(Healthy("count")) as oracle:
        asyncio.run(fill(server.url, oracle.url))
        yield Settings()
    server.kill()


async def fill(redis_url: str, oracle_url: str) -> None:
    async with open_gateway(redis_url, OutgoingPolicy()) as gateway:
        registry, stream = gateway.registry, gateway.stream("run-1")
        await registry.put_oracle(OracleEndpoint(name="count", url=oracle_url, version="7", max_batch=4))
        gone = OracleEndpoint(name="gone", url="http://127.0.0.1:9", max_batch=4, state="draining")
        await registry.put_oracle(gone)
        await registry.breaker_failed("gone", caller="w", bounds=BreakerBounds(failures_to_open=1, open_s=60))
        await registry.put_run("run-1")
        await stream.set_iteration(12)
        await stream.enqueue(group_of("g1", 4), oracles=["count", "gone"])
    await settle(redis_url, 1, fail=1)


async def settle(redis_url: str, scored: int, *, fail: int = 0) -> None:
    async with open_gateway(redis_url, OutgoingPolicy()) as gateway:
        stream = gateway.stream("run-1")
        claims = await stream.claim("count", consumer="w", max_samples=scored + fail, lease_s=60)
        ids = [claim.sample.sample_id for claim in claims]
        results = [Scored(sample_id=one, reward=1.0) for one in ids[:scored]]
        failed = [
            ScoreFailure(sample_id=one, code="oracle_error", detail="no", retryable=False) for one in ids[scored:]
        ]
        await stream.settle(
            "count", consumer="w", outcomes=list(zip(claims, results + failed, strict=True)), version="7"
        )


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["status", *arguments])
    assert result.exit_code == 0, result.output + result.stderr
    return result.stdout


def test_without_a_terminal_it_is_said_once(settings: Settings) -> None:
    said = run()
    assert re.search(r"oracle count: healthy at http://127\.0\.0\.1:\d+, version 7, breaker closed", said)
    assert "oracle gone: DOES NOT ANSWER at http://127.0.0.1:9, draining, version not asked, breaker open" in said
    assert re.search(
        r"run run-1, count: lag 2, pending 0, .*, settled 2 \(0\.0 a second\), dead letters 1, 6 of 67,108,864", said
    )
    assert "run run-1: 12 iterations done" in said
    assert "run run-1, gone: lag 4, pending 0" in said


def test_scripts_get_json(settings: Settings) -> None:
    said = json.loads(run("--json"))
    assert said["health"] == {"count": "healthy", "gone": "DOES NOT ANSWER"}
    assert [one["breaker"]["kind"] for one in said["oracles"]] == ["closed", "open"]
    depth = next(one for one in said["depths"] if one["oracle"] == "count")
    assert {"run_id": "run-1", "lag": 2, "settled": 2, "settled_per_s": 0.0, "dead_letters": 1}.items() <= depth.items()
    assert said["runs"] == [{"run_id": "run-1", "iteration": 12}]
    assert said["problem"] == ""


def test_a_terminal_gets_a_view_that_follows(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.status_view._PAUSE_S", 0.05)
    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=60)
    looks = 0

    def until() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            asyncio.run(settle(str(settings.redis_url), 2))
        return looks == 3

    watch(settings, console, until=until)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert looks == 3
    assert re.search(r"\x1b\[\d*A", said)  # drawn over what was there
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    last = plain[plain.rindex("streams") :]
    assert re.search(r"run-1 +│ +12 │ count +(│ +0 ){4}│ +[\d.]+ s │ +4 │ +(?!0\.0)[\d.]+ │ +1 │", last), last
    oracles = plain[plain.rindex("oracles") : plain.rindex("streams")]
    assert re.search(r"count +│ 7 +│ active +│ closed +│ healthy", oracles), oracles
    assert re.search(r"gone +│ not asked +│ draining +│ open, 1 failures +│ DOES NOT ANSWER", oracles), oracles


def test_a_buffer_that_is_gone_is_shown_and_not_raised(tmp_path: Path) -> None:
    settings = Settings(run_root=tmp_path, redis_url=f"unix://{tmp_path}/nobody")
    seen = look(settings)
    assert (seen.status, rates(seen, look(settings))) == (None, {})
    console = Console(file=io.StringIO(), width=100)
    console.print(render(seen, {}))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "no stack was started here" in said
    assert "does not answer" in said
