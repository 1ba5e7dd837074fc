"""Workers that share an oracle's breaker through a real server, and a picture that kills the oracle's process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

import tests.mortal_oracle
from reward_workers.link import OracleLink
from reward_workers.meter import TallyMeter
from rewardmesh.dialects.failures import ServerError
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.memory_stream import MemoryStream
from rewardmesh.wire.messages import BreakerBounds, OracleEndpoint, Scored, ScoreFailure
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Claim, Group
from tests.contract.conftest import Server
from tests.contract.workers import FAST, World, completed, endpoint_of, failing, group_of, until, working
from tests.mortal_oracle import POISON
from tests.oracle_server import OracleServer, Response

QUICK = BreakerBounds(failures_to_open=2, open_s=0.05, max_open_s=0.1)
FOR_LONG = BreakerBounds(failures_to_open=2, open_s=600, max_open_s=600)


@pytest.fixture
async def client(servers: Callable[[str], Server]) -> AsyncIterator[Redis]:
    client = await connect(servers("valkey-9.1").url)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def broken() -> AsyncIterator[OracleServer]:
    async with OracleServer() as server:
        server.answer = failing(1_000_000, Response(b"", 500))
        yield server


@pytest.fixture
async def two_links(client: Redis, broken: OracleServer) -> AsyncIterator[Callable[..., tuple[OracleLink, OracleLink]]]:
    """Links of two workers to one oracle, with nothing in common but the server."""
    opened: list[OracleLink] = []

    def make(**limits: Any) -> tuple[OracleLink, OracleLink]:
        endpoint = endpoint_of(broken, **limits)
        opened.extend(
            OracleLink(endpoint, registry=Registry(client), settings=FAST, meter=TallyMeter()) for _ in range(2)
        )
        return opened[0], opened[1]

    yield make
    for link in opened:
        await link.aclose()


@pytest.fixture
async def claims() -> list[Claim]:
    stream = MemoryStream("run")
    await stream.enqueue(group_of("g1", 1), oracles=["object_count"])
    return await stream.claim("object_count", consumer="w", max_samples=1, lease_s=600)


async def fail(link: OracleLink, claims: list[Claim], times: int) -> None:
    for _ in range(times):
        turn = await link.turn(asyncio.Event())
        assert turn is not None
        with pytest.raises(ServerError):
            await link.score(claims, turn=turn)


async def test_the_failures_of_one_worker_stop_the_other(
    two_links: Callable[..., Any], claims: list[Claim], broken: OracleServer
) -> None:
    one, two = two_links(breaker=FOR_LONG)
    await fail(one, claims, 1)
    await fail(two, claims, 1)
    stopping = asyncio.Event()
    waiting = [asyncio.create_task(link.turn(stopping)) for link in (one, two)]
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in waiting)
    stopping.set()  # a stop ends the wait
    assert await asyncio.gather(*waiting) == [None, None]
    assert len(broken.calls) == 2


async def test_one_worker_probes_and_its_success_closes_for_both(
    two_links: Callable[..., Any], claims: list[Claim], broken: OracleServer
) -> None:
    links = two_links(breaker=QUICK, deadline_s=60.0)
    await fail(links[0], claims, 2)
    turns = [asyncio.create_task(link.turn(asyncio.Event())) for link in links]
    async with asyncio.timeout(30):
        (first,), (second,) = await asyncio.wait(turns, return_when=asyncio.FIRST_COMPLETED)
    assert first.result().probing
    await asyncio.sleep(0.5)
    assert not second.done()
    broken.answer = failing(0, Response())
    await links[turns.index(first)].score(claims, turn=first.result())
    async with asyncio.timeout(30):
        assert not (await second).probing


async def test_a_worker_that_dies_while_probing_does_not_leave_it_open(
    two_links: Callable[..., Any], client: Redis
) -> None:
    one, two = two_links(breaker=QUICK, deadline_s=0.5)
    async with asyncio.timeout(50):
        for _ in range(QUICK.failures_to_open):
            await Registry(client).breaker_failed("object_count", caller="another", bounds=QUICK)
        probing = await one.turn(asyncio.Event())
        assert probing is not None
        assert probing.probing
        again = await two.turn(asyncio.Event())  # and nothing was ever said of the first probe
    assert again is not None
    assert again.probing


async def test_samples_wait_in_the_stream_while_the_breaker_is_open(client: Redis, broken: OracleServer) -> None:
    world = World(open_redis_stream(client, f"run-{uuid4().hex[:8]}"), Registry(client))
    await world.registry.put_run(world.stream.run_id)
    await world.registry.put_oracle(endpoint_of(broken, breaker=FOR_LONG))
    for index in range(6):
        await world.stream.enqueue(group_of(f"g{index}"), oracles=["object_count"])
    async with working(world.worker()), working(world.worker()):

        async def is_open() -> bool:
            return (await world.registry.breaker("object_count")).kind == "open"

        await until(is_open)
        await asyncio.sleep(1.0)
        asked = len(broken.calls)
        assert asked <= 3  # the third was under way when the second opened it
        depth = await world.stream.depth("object_count")
        assert (depth.lag >= 12, depth.pending, depth.dead_letters) == (True, 0, 0)
        broken.answer = failing(0, Response())
        await world.registry.put_oracle(endpoint_of(broken, breaker=FOR_LONG))  # an operator who says: try again
        for index in range(6):
            outcome = await completed(world.stream, f"g{index}")
            assert all(isinstance(result, Scored) for result in outcome.results.values())


@pytest.fixture
def mortal_oracle() -> Iterator[str]:
    """The URL of an oracle that a picture kills, and that is started again each time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-I", str(Path(tests.mortal_oracle.__file__)), str(port)]
    supervisor = subprocess.Popen(command, start_new_session=True)
    yield f"http://127.0.0.1:{port}"
    os.killpg(supervisor.pid, signal.SIGKILL)  # it and its present child
    supervisor.wait()


async def test_a_picture_that_kills_the_oracle_dies_alone(client: Redis, mortal_oracle: str) -> None:
    world = World(open_redis_stream(client, f"run-{uuid4().hex[:8]}"), Registry(client))
    await world.registry.put_run(world.stream.run_id)
    endpoint = OracleEndpoint(
        name="object_count",
        url=mortal_oracle,
        max_batch=4,
        max_attempts=3,
        retry_base_s=0.05,
        retries={"unreachable": {"max_attempts": 100, "budget_s": 600}},  # while it comes back
        breaker=BreakerBounds(open_s=0.05, max_open_s=0.2),
    )
    await world.registry.put_oracle(endpoint)
    requests = list(group_of("g1").requests)
    requests[2] = replace(requests[2], picture=POISON)
    await world.stream.enqueue(Group(group_id="g1", requests=tuple(requests)), oracles=["object_count"])
    async with working(world.worker()), working(world.worker()):
        outcome = await completed(world.stream, "g1")
    failures = [result for result in outcome.results.values() if isinstance(result, ScoreFailure)]
    assert [(failure.sample_id, failure.code) for failure in failures] == [("g1.2", "dropped")]
    (letter,) = await world.stream.dead_letters("object_count", 9)
    assert letter.picture == POISON
