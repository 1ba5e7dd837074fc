"""An oracle on the real stack grows with what waits in its stream, and shrinks when that is gone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rewardmesh.wire.buffer import connect
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from tests.integration.conftest import START_S, RunningStack
from tests.integration.scaled_oracle import ORACLE, SAMPLES_PER_REPLICA
from tests.integration.test_kill_workers import GROUP_SIZE, group_of

RUN = "autoscaling"


@asynccontextmanager
async def backlog(redis_url: str) -> AsyncIterator[None]:
    """Samples that wait for the oracle, and no worker that takes them away."""
    client = await connect(redis_url)
    registry, stream = Registry(client), open_redis_stream(client, RUN)
    registered = next(one for one in await registry.oracles() if one.name == ORACLE)
    await registry.put_oracle(registered.model_copy(update={"state": "paused"}))
    await asyncio.sleep(2.0)  # workers pick a change up within this time
    try:
        await registry.put_run(RUN)
        await stream.enqueue(group_of(1), oracles=[ORACLE])
        yield
    finally:
        await stream.forget("g1")
        await registry.end_run(RUN)
        await registry.put_oracle(registered)
        await client.aclose()


@pytest.mark.timeout(START_S)
async def test_replicas_follow_the_backlog(stack: RunningStack, tmp_path: Path) -> None:
    assert SAMPLES_PER_REPLICA < GROUP_SIZE <= 2 * SAMPLES_PER_REPLICA
    driver = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "tests.integration.scaled_oracle"),
        env={**stack.environment(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
    )
    assert driver.stdout is not None
    lines = driver.stdout
    try:
        assert await lines.readline() == b"1 running\n"
        async with backlog(stack.redis_url):
            assert await lines.readline() == b"2 running\n"
        assert await lines.readline() == b"1 running\n"
        assert await driver.wait() == 0
    finally:
        if driver.returncode is None:
            driver.kill()
            await driver.wait()
