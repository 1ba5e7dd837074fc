"""Pictures a second of object_count while ocr_spelling hangs, against the same without ocr_spelling.

    python -m benchmarks.hung_oracle              a light oracle with a fixed service time stands for object_count
    python -m benchmarks.hung_oracle --real       the shipped detector

For each value a backlog is put on the stream, then a worker is let at it; the clock runs from the first completed group
to the last. The hung oracle says what it is and never answers a score: its calls end at a deadline of a second, and
are retried and given up, all inside the time that is measured. The two conditions take turns.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import uvicorn

from benchmarks.record import Figure, parser, report
from deploy.embedded_server import EmbeddedServer, find_server
from reward_workers.process import worker_on_server
from reward_workers.settings import WorkerSettings
from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import Oracle, OracleInput, Result
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.codec import encode_picture, raw_media_type
from rewardmesh.wire.messages import Checks, OracleEndpoint, OracleInfo, Sample, Scored
from rewardmesh.wire.redis_stream import RedisStream, open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Group, PendingSample, StreamSettings
from rewardmesh.wire.telemetry import configure_logging

PROMISED = 0.9
GROUP_SIZE = 8
BATCH = 16
SIDE = 48
SERVICE_S = 0.005
WORKING, HUNG = "object_count", "ocr_spelling"
_START_S = 120.0


def info_of(name: str) -> OracleInfo:
    """What both stand-ins say of themselves."""
    return OracleInfo(
        name=name, version="1", reward_min=0.0, reward_max=1.0, media_types=("application/x-raw-rgb",), max_batch=BATCH
    )


class Light(Oracle):
    """Waits as long as a small detector works on a batch, and returns the share of blue."""

    info = info_of(WORKING)

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        time.sleep(SERVICE_S)
        return [
            Scored(sample_id=item.sample.sample_id, reward=float(item.picture[..., 2].mean() / 255)) for item in batch
        ]


def _serve_light(port: int) -> None:
    """The light oracle's process."""
    uvicorn.run(build_app(Light()), host="127.0.0.1", port=port, log_level="warning")


@asynccontextmanager
async def light() -> AsyncIterator[OracleEndpoint]:
    """The light oracle behind HTTP, in a process that ends with this context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve_light, args=(port,), daemon=True)
    process.start()
    endpoint = OracleEndpoint(name=WORKING, url=f"http://127.0.0.1:{port}", max_batch=BATCH, concurrency=2)
    deadline = time.monotonic() + _START_S
    try:
        async with httpx.AsyncClient(base_url=endpoint.url, trust_env=False) as http:
            while True:
                with suppress(httpx.HTTPError):
                    if (await http.get("/v1/health")).status_code == httpx.codes.OK:
                        break
                if not process.is_alive() or time.monotonic() > deadline:
                    raise RuntimeError(f"the light oracle did not start within {_START_S:.0f} s")
                await asyncio.sleep(0.1)
        yield endpoint
    finally:
        process.terminate()
        process.join()


@asynccontextmanager
async def hung() -> AsyncIterator[OracleEndpoint]:
    """An oracle that says what it is, takes every score request, and never answers one."""
    body = info_of(HUNG).to_json().encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
            while await reader.read(1 << 16):
                pass  # until the caller hangs up
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield OracleEndpoint(
            name=HUNG, url=f"http://127.0.0.1:{port}", max_batch=BATCH, concurrency=2, deadline_s=1.0, max_attempts=2
        )
    finally:
        server.close()


def draw(number: int) -> list[PendingSample]:
    """Random pictures, raw, as the shapes world sends them."""
    rng = np.random.default_rng(1)
    media_type = raw_media_type(SIDE, SIDE)
    return [
        PendingSample(
            sample=Sample(
                run_id="benchmark",
                group_id=f"g{index // GROUP_SIZE}",
                sample_id=f"s{index}",
                policy_version=0,
                boundary_index=4,
                prompt="two red circles",
                checks=Checks(tag="counting"),
            ),
            media_type=media_type,
            picture=encode_picture(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), media_type),
        )
        for index in range(number)
    ]


def draw_real(number: int) -> list[PendingSample]:
    """Rendered pictures of the shapes world."""
    from benchmarks import oracles  # noqa: PLC0415 - brings torch, which the light form does without

    return [
        PendingSample(
            sample=one.sample,
            media_type=raw_media_type(one.picture.shape[1], one.picture.shape[0]),
            picture=one.picture.tobytes(),
        )
        for one in oracles.draw(WORKING, number)
    ]


async def pictures_a_second(
    redis_url: str, endpoints: Sequence[OracleEndpoint], pending: Sequence[PendingSample]
) -> float:
    """One value: object_count's rate while every one of `endpoints` has the same backlog."""
    run_id = f"bench-{uuid4().hex[:8]}"
    client = await connect(redis_url)
    registry = Registry(client)
    stream = open_redis_stream(client, run_id, settings=StreamSettings(budget_bytes=256 * 2**20))
    num_groups = len(pending) // GROUP_SIZE
    try:
        for index in range(num_groups):
            requests = tuple(pending[index * GROUP_SIZE : (index + 1) * GROUP_SIZE])
            group = Group(group_id=f"g{index}", requests=requests)
            admitted = await stream.enqueue(group, oracles=[endpoint.name for endpoint in endpoints])
            if not all(admission.accepted for admission in admitted.values()):
                raise RuntimeError("the backlog does not fit into the oracle's byte budget")
        for endpoint in endpoints:
            await registry.put_oracle(endpoint)
        await registry.put_run(run_id)
        async with worker_on_server(
            WorkerSettings(redis_url=redis_url, drain_s=0.1, allowed_networks="127.0.0.0/8")
        ) as worker:
            working = asyncio.create_task(worker.run())
            try:
                rate = await _rate(stream, num_groups)
            finally:
                worker.stop()
                await working
        for group_id in await stream.groups():
            await stream.forget(group_id)
        return rate
    finally:
        await registry.end_run(run_id)
        for endpoint in endpoints:
            await registry.remove_oracle(endpoint.name)
        await client.aclose()


async def _rate(stream: RedisStream, num_groups: int) -> float:
    """Pictures a second from the first look that finds completed groups to the one that finds the last."""
    done, after, first, began = 0, "0", 0, 0.0
    while done < num_groups:
        completed, after = await stream.completions(after=after, wait_s=1.0)
        done += sum(oracle == WORKING for _, oracle in completed)
        if not began and done:
            first, began = done, time.perf_counter()
        await asyncio.sleep(0.02)  # looks cost the worker time
    return (num_groups - first) * GROUP_SIZE / (time.perf_counter() - began)


async def measure(redis_url: str, *, real: bool, num_pictures: int, repetitions: int) -> list[Figure]:
    """Both conditions in turns, and their ratios pair by pair."""
    if real:
        from benchmarks.oracles import served  # noqa: PLC0415 - see draw_real

        serving, pending = served(WORKING), draw_real(num_pictures)
    else:
        serving, pending = light(), draw(num_pictures)
    undisturbed: list[float] = []
    disturbed: list[float] = []
    async with serving as working, hung() as hanging:
        await pictures_a_second(redis_url, [working], pending[: 32 * GROUP_SIZE])  # warm-up
        for _ in range(repetitions):
            undisturbed.append(await pictures_a_second(redis_url, [working], pending))
            disturbed.append(await pictures_a_second(redis_url, [working, hanging], pending))
    ratios = [with_hung / without for with_hung, without in zip(disturbed, undisturbed, strict=True)]
    what = WORKING if real else f"light {WORKING}"
    return [
        Figure(f"{what} alone", "pictures/s", undisturbed, note=f"{num_pictures} pictures a value"),
        Figure(f"{what} beside a hung {HUNG}", "pictures/s", disturbed),
        Figure("hung / alone", "ratio", ratios, note=f"promised: {PROMISED} at least, in the median"),
    ]


async def main() -> int:
    """Runs the benchmark; 1 if the promise is not kept."""
    made = parser(__doc__)
    made.add_argument("--real", action="store_true", help="the shipped object_count instead of the light one")
    made.add_argument(
        "--pictures", type=int, default=None, metavar="N", help="for each value (default 4096, real 1024)"
    )
    arguments = made.parse_args()
    num_pictures = arguments.pictures or (1024 if arguments.real else 4096)
    configure_logging(level="ERROR")
    with tempfile.TemporaryDirectory(prefix="rewardmesh-bench-") as folder:
        server = EmbeddedServer(Path(folder) / "data", binary=find_server())
        server.start()
        try:
            figures = await measure(
                server.url, real=arguments.real, num_pictures=num_pictures, repetitions=arguments.repetitions
            )
        finally:
            server.stop()
    report("hung_oracle", figures, json_file=arguments.json)
    return 0 if figures[-1].median >= PROMISED else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
