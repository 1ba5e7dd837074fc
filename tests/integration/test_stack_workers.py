"""Reward workers on the real stack: one is killed with -9 in mid-batch, Serve replaces it, and no sample is lost."""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest

from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import OracleEndpoint, Scored
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from tests.integration.conftest import RunningStack
from tests.integration.test_kill_workers import GROUP_SIZE, group_of
from tests.oracle_server import Call, OracleServer, Response, reply

ORACLE = "killed_meanwhile"  # its name is its own, so that it gets no samples of other tests
RUN = "stack-workers"


def replicas(of_ray: int | None = None) -> list[psutil.Process]:
    """The replicas of reward workers; those of one Ray only, by the pid of its raylet."""
    found = [one for one in psutil.process_iter() if one.name().startswith("ray::ServeRepl") and is_worker(one)]
    return [one for one in found if of_ray is None or one.ppid() == of_ray]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "reward_workers" in " ".join(process.cmdline())
    except psutil.Error:
        return False


async def wait_for_replicas(number: int, *, of_ray: int, but: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while len([one for one in replicas(of_ray) if one.pid != but]) < number:
        assert time.monotonic() < deadline, replicas(of_ray)
        await asyncio.sleep(0.2)


@pytest.mark.timeout(900)
async def test_a_killed_reward_worker_is_replaced_and_loses_nothing(stack: RunningStack) -> None:
    release = asyncio.Event()

    async def answer(call: Call) -> Response:
        await release.wait()
        return reply(call)

    client = await connect(stack.redis_url)
    registry, stream = Registry(client), open_redis_stream(client, RUN)
    async with OracleServer(ORACLE, answer=answer) as oracle:
        endpoint = OracleEndpoint(name=ORACLE, url=oracle.url, max_batch=GROUP_SIZE, deadline_s=120)
        try:
            await registry.put_oracle(endpoint)
            await registry.put_run(RUN)
            await stream.enqueue(group_of(1), oracles=[ORACLE])
            await wait_until_asked(oracle, 1)
            holder = next(one for one in replicas() if holds_connection(one, oracle.port))
            pid, raylet = holder.pid, holder.ppid()
            holder.kill()
            release.set()  # an answer that nobody reads any more
            async with asyncio.timeout(120):  # the lease of 15 s, on busy cores
                while not (outcome := await stream.outcomes("g1", ORACLE)).complete:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert all(isinstance(result, Scored) for result in outcome.results.values())
            assert set(oracle.asked.values()) == {2}
            await wait_for_replicas(2, of_ray=raylet, but=pid, timeout_s=180)
        finally:
            await registry.remove_oracle(ORACLE)
            await registry.end_run(RUN)
            for group_id in await stream.groups():
                await stream.forget(group_id)
            await client.aclose()


async def wait_until_asked(oracle: OracleServer, times: int) -> None:
    async with asyncio.timeout(30):
        while len(oracle.calls) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def holds_connection(process: psutil.Process, port: int) -> bool:
    return any(one.raddr and one.raddr.port == port for one in process.net_connections("tcp"))
