"""Workers under test: a stream, a registry, and oracles on loopback whose every answer a test decides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from reward_workers.settings import WorkerSettings
from reward_workers.worker import Worker
from rewardmesh.wire.answers import AnswerCache
from rewardmesh.wire.messages import BreakerBounds, Checks, OracleEndpoint, Sample
from rewardmesh.wire.registry import MemoryRegistry, OracleRegistry
from rewardmesh.wire.stream import Group, GroupOutcome, PendingSample, Stream
from tests.oracle_server import Answer, Call, OracleServer, Response, reply

FAST = WorkerSettings(lease_s=1.5, discover_every_s=0.1, claim_wait_s=0.1, drain_s=5.0, max_backoff_s=0.5)


def group_of(group_id: str, size: int = 4, **reuse_answers_s: float) -> Group:
    requests = tuple(
        PendingSample(
            sample=Sample(
                run_id="run",
                group_id=group_id,
                sample_id=f"{group_id}.{index}",
                policy_version=0,
                boundary_index=4,
                prompt="two red circles",
                checks=Checks(tag="counting"),
            ),
            media_type="application/x-raw-rgb;width=1;height=1",
            picture=bytes([index, 0, 0]),
        )
        for index in range(size)
    )
    return Group(group_id=group_id, requests=requests, reuse_answers_s=reuse_answers_s)


def endpoint_of(server: OracleServer, **limits: Any) -> OracleEndpoint:
    known: dict[str, Any] = {"max_batch": 4, "deadline_s": 5.0, "retry_base_s": 0.02, "retry_budget_s": 20.0}
    known["granularity"] = server.info.granularity
    known["breaker"] = BreakerBounds(open_s=0.05, max_open_s=0.2)
    return OracleEndpoint(name=server.info.name, url=server.url, **(known | limits))


async def completed(stream: Stream, group_id: str, oracle: str = "object_count") -> GroupOutcome:
    async with asyncio.timeout(30):
        while True:
            outcome = await stream.outcomes(group_id, oracle)
            if outcome.complete:
                return outcome
            await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        async with asyncio.timeout(30):
            await task


class World:
    """A stream, a registry with its run, and workers on them."""

    def __init__(self, stream: Stream, registry: OracleRegistry | None = None) -> None:
        self.stream = stream
        self.registry = registry or MemoryRegistry()

    def worker(self, settings: WorkerSettings = FAST, *, answers: AnswerCache | None = None) -> Worker:
        async def open_stream(_: str) -> Stream:
            return self.stream

        return Worker(registry=self.registry, open_stream=open_stream, settings=settings, answers=answers)


def failing(times: int, response: Response) -> Answer:
    """Fails the first calls, then answers."""
    left = times

    async def answer(call: Call) -> Response:
        nonlocal left
        left -= 1
        return response if left >= 0 else reply(call)

    return answer


async def assert_empty(stream: Stream, oracle: str = "object_count") -> None:
    depth = await stream.depth(oracle)
    assert (depth.lag, depth.pending, depth.retrying, depth.deferred, depth.bytes_in_use) == (0, 0, 0, 0, 0)
