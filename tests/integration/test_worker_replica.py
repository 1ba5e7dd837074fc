"""The Serve replica of a worker, driven as Serve drives it: start, health checks, take-down."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from reward_workers.serve import WorkerReplica, worker_application
from reward_workers.settings import WorkerSettings
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import BufferUnavailable
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from tests.contract.conftest import Server, binary_of
from tests.integration.test_kill_workers import GROUP_SIZE, group_of
from tests.oracle_server import OracleServer

RUN = "replica-run"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(binary_of("valkey-9.1"), tmp_path / "server")
    server.start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def collected_without_serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody awaits `__del__` here but the tests themselves, by its other name."""
    monkeypatch.delattr(WorkerReplica, "__del__")
    yield
    gc.collect()


async def start(settings: WorkerSettings) -> Any:
    replica = WorkerReplica.__new__(WorkerReplica)
    await replica.__init__(settings.model_dump())  # as Serve does
    return replica


async def test_a_replica_works_is_healthy_and_stops_in_order(server: Server) -> None:
    client = await connect(server.url)
    stream = open_redis_stream(client, RUN)
    async with OracleServer() as oracle:
        await Registry(client).put_oracle(OracleEndpoint(name="object_count", url=oracle.url, max_batch=8))
        await Registry(client).put_run(RUN)
        await stream.enqueue(group_of(1), oracles=["object_count"])
        replica = await start(WorkerSettings(redis_url=server.url, discover_every_s=0.1, claim_wait_s=0.1))
        async with asyncio.timeout(40):
            while not (await stream.outcomes("g1", "object_count")).complete:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await replica.check_health()
        described = await replica.describe()
        assert described["pumps"] == [(RUN, "object_count")]
        assert described["settled"] == GROUP_SIZE
        await replica.stop()
        with pytest.raises(BufferUnavailable, match="loop has ended"):
            await replica.check_health()
    await client.aclose()


async def test_a_replica_whose_loop_died_fails_its_health_check(server: Server) -> None:
    settings = WorkerSettings(redis_url=server.url, discover_every_s=0.1, claim_wait_s=0.1, buffer_patience_s=0.5)
    replica = await start(settings)
    await replica.check_health()
    server.kill()
    await asyncio.wait({replica._loop_task}, timeout=40)
    with pytest.raises(BufferUnavailable, match="does not answer"):
        await replica.check_health()
    await replica.stop()  # taking it down is still in order


async def test_a_replica_without_a_server_does_not_start() -> None:
    with pytest.raises(BufferUnavailable):
        await start(WorkerSettings(redis_url="unix:///nonexistent/socket"))


def test_the_application_has_a_fixed_number_of_replicas_and_stops_its_loop() -> None:
    deployment = worker_application(WorkerSettings(replicas=3, drain_s=7.0))._bound_deployment
    assert deployment.num_replicas == 3
    assert deployment._deployment_config.graceful_shutdown_timeout_s > 7.0
