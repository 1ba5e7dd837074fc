"""One worker as a plain process: connects, works until SIGTERM or SIGINT, hands back what it holds.

Exit status: 0 after a stop, 1 with one line on stderr when the server is away or misconfigured.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import ValidationError

from reward_workers.meter import Meter
from reward_workers.settings import WorkerSettings
from reward_workers.worker import Worker
from rewardmesh.wire.answers import Answers
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import RewardmeshError
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Stream
from rewardmesh.wire.telemetry import configure_logging
from rewardmesh.wire.tracing import configure_tracing, flush

__all__ = ["main", "run_worker", "worker_on_server"]


@asynccontextmanager
async def worker_on_server(
    settings: WorkerSettings, *, name: str | None = None, meter: Meter | None = None
) -> AsyncIterator[Worker]:
    """A worker that is connected to the server of its settings; the connection is closed at the end.

    Raises: BufferUnavailable, BufferMisconfigured.
    """
    client = await connect(settings.redis_url)

    async def open_stream(run_id: str) -> Stream:
        return open_redis_stream(client, run_id)

    try:
        yield Worker(
            registry=Registry(client),
            open_stream=open_stream,
            settings=settings,
            answers=Answers(client, max_bytes=settings.answers_bytes),
            name=name,
            meter=meter,
        )
    finally:
        await client.aclose()


async def run_worker(settings: WorkerSettings, *, name: str | None = None) -> None:
    """Works until the process is asked to end (SIGTERM, SIGINT). Main thread only."""
    async with worker_on_server(settings, name=name) as worker:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        try:
            await worker.run()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def main() -> int:
    """Runs a worker as the environment says; returns the exit status."""
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        sys.stderr.write(f"worker settings: {place}: {first['msg']}; see REWARDMESH_WORKER_… in the environment\n")
        return 1
    configure_logging()
    try:
        configure_tracing("worker")
        asyncio.run(run_worker(settings))
    except RewardmeshError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        flush()
    return 0
