"""Workers killed with -9 in mid-batch, 30 times: nothing is lost, nothing settled twice, all counters return to 0."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from reward_workers.process import run_worker
from reward_workers.settings import WorkerSettings
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import Checks, OracleEndpoint, Sample, Scored
from rewardmesh.wire.redis_stream import RedisStream, open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Group, PendingSample, StreamSettings
from rewardmesh.wire.telemetry import configure_logging
from tests.contract.conftest import Server, binary_of
from tests.oracle_server import Call, OracleServer, Response, ThreadedOracle, reply

KILLS = 30
NUM_GROUPS = 60
GROUP_SIZE = 8
RUN = "kill-run"
# A killed worker's samples may be killed again with the next: what is tested is the lease, and not the poison rule.
SETTINGS = StreamSettings(max_deliveries=1000)


def work(settings: dict[str, Any]) -> None:
    """What each worker process does: the same as `python -m reward_workers`."""
    configure_logging(json_lines=True, level="ERROR")
    asyncio.run(run_worker(WorkerSettings(**settings)))


class Workers:
    """Plain worker processes, replaced as they are killed.

    They are forked from a server that has imported what they need: 34 imports would cost a minute.
    """

    def __init__(self, url: str) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["reward_workers.process"])
        self._settings = {"redis_url": url, "lease_s": 1.0, "discover_every_s": 0.2, "claim_wait_s": 0.1}
        self.running: list[ForkServerProcess] = []

    def start(self) -> None:
        self.running.append(self._context.Process(target=work, args=(self._settings,), daemon=True))
        self.running[-1].start()

    def kill(self, rng: random.Random) -> None:
        victim = self.running.pop(rng.randrange(len(self.running)))
        assert victim.is_alive()
        victim.kill()
        victim.join()
        assert victim.exitcode == -signal.SIGKILL

    def stop(self) -> list[int | None]:
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.join(30)
        return [process.exitcode for process in self.running]

    def kill_all(self) -> None:
        for process in self.running:
            process.kill()
            process.join()


def group_of(index: int) -> Group:
    requests = tuple(
        PendingSample(
            sample=Sample(
                run_id=RUN,
                group_id=f"g{index}",
                sample_id=f"g{index}.{place}",
                policy_version=0,
                boundary_index=4,
                prompt="two red circles",
                checks=Checks(tag="counting"),
            ),
            media_type="application/x-raw-rgb;width=1;height=1",
            picture=bytes([index, place, 0]),
        )
        for place in range(GROUP_SIZE)
    )
    return Group(group_id=f"g{index}", requests=requests)


async def wait_for_calls(oracle: OracleServer, number: int) -> None:
    """Until that many calls have begun in all and one is under way: the moment to kill in mid-batch."""
    async with asyncio.timeout(60):
        while len(oracle.calls) < number or oracle.now_asked == 0:  # noqa: ASYNC110 - another thread's counters
            await asyncio.sleep(0.002)


async def feed(stream: RedisStream, index: int) -> int:
    admission = await stream.enqueue(group_of(index), oracles=["object_count"])
    assert admission["object_count"].accepted
    return index + 1


@pytest.fixture
async def stream_and_registry(tmp_path: Path) -> AsyncIterator[tuple[str, RedisStream, Registry]]:
    """URL, stream and registry of a server of this test's own."""
    server = Server(binary_of("valkey-9.1"), tmp_path / "server")
    server.start()
    client = await connect(server.url)
    yield server.url, open_redis_stream(client, RUN, settings=SETTINGS), Registry(client)
    await client.aclose()
    server.kill()


async def answer(call: Call) -> Response:
    await asyncio.sleep(0.03)
    return reply(call)


@pytest.mark.timeout(240)  # 15 s where the cores are free
async def test_thirty_kills_lose_nothing_and_settle_nothing_twice(
    stream_and_registry: tuple[str, RedisStream, Registry],
) -> None:
    url, stream, registry = stream_and_registry
    workers = Workers(url)
    rng = random.Random(7)
    with ThreadedOracle(OracleServer(answer=answer)) as oracle:
        endpoint = OracleEndpoint(
            name="object_count", url=oracle.url, max_batch=4, concurrency=2, max_attempts=1000, retry_base_s=0.05
        )
        await registry.put_oracle(endpoint)
        await registry.put_run(RUN)
        try:
            for _ in range(4):
                workers.start()
            fed = 0
            for _ in range(KILLS):
                while fed < NUM_GROUPS and (await stream.depth("object_count")).lag < 2 * GROUP_SIZE:
                    fed = await feed(stream, fed)
                await wait_for_calls(oracle, len(oracle.calls) + 1)
                workers.kill(rng)
                workers.start()
            while fed < NUM_GROUPS:
                fed = await feed(stream, fed)
            await check_all_done(stream)
            assert workers.stop() == [0] * len(workers.running)
        finally:
            workers.kill_all()
    await check_counters(stream)
    assert set(oracle.asked) == {f"g{index}.{place}" for index in range(NUM_GROUPS) for place in range(GROUP_SIZE)}
    print(f"asked {sum(oracle.asked.values())} times about {len(oracle.asked)} samples, {KILLS} kills")


async def check_all_done(stream: RedisStream) -> None:
    """Every sample has one outcome, its own reward; every group was announced as complete once."""
    deadline = time.monotonic() + 90
    for index in range(NUM_GROUPS):
        while not (outcome := await stream.outcomes(f"g{index}", "object_count")).complete:
            assert time.monotonic() < deadline, await stream.depth("object_count")
            await asyncio.sleep(0.05)
        ids = [f"g{index}.{place}" for place in range(GROUP_SIZE)]
        assert outcome.results == {sample_id: Scored(sample_id=sample_id, reward=index / 255) for sample_id in ids}
    completions, _ = await stream.completions()
    assert Counter(completions) == {(f"g{index}", "object_count"): 1 for index in range(NUM_GROUPS)}


async def check_counters(stream: RedisStream) -> None:
    depth = await stream.depth("object_count")
    assert (depth.lag, depth.pending, depth.retrying, depth.deferred) == (0, 0, 0, 0)
    assert (depth.bytes_in_use, depth.dead_letters) == (0, 0)
    for group_id in await stream.groups():
        await stream.forget(group_id)
    assert await stream.groups() == []
