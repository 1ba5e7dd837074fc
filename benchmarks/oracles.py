"""Pictures a second of each oracle: called as a class, over HTTP on loopback, and through the whole road.

    python -m benchmarks.oracles                      both oracles
    python -m benchmarks.oracles --oracle object_count --pictures 512

The whole road: groups of 8 are enqueued on the embedded server, a worker claims them, asks the oracle over HTTP and
settles, and the clock stops when the last group's completion has been read. The oracle runs in a process of its own
with one thread for torch, as a Serve replica does; Serve's proxy is not part of it. The three take turns. The road may
be the faster one: its worker has the next batch under way while the oracle scores.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import httpx
import numpy as np
import torch
import uvicorn

from benchmarks.record import Figure, parser, report
from deploy.embedded_server import EmbeddedServer, find_server
from reward_workers.client import OracleClient
from reward_workers.process import worker_on_server
from reward_workers.settings import WorkerSettings
from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import Oracle, OracleInput
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.codec import choose_media_type, encode_picture
from rewardmesh.wire.messages import Checks, OracleEndpoint, Sample, Scored
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Claim, Group, PendingSample, Stream
from rewardmesh.wire.telemetry import configure_logging
from services.catalogue import ORACLES, make_oracle
from trainer.worlds.shapes.prompts import heldout_prompts
from trainer.worlds.shapes.render import render, scene_for

GROUP_SIZE = 8
BATCH = 64
_START_S = 120.0


def draw(oracle: str, number: int) -> list[OracleInput]:
    """Rendered pictures of prompts that fit the oracle."""
    rng = np.random.default_rng(1)
    specs = [spec for spec in heldout_prompts() if (spec.kind == "spelling") == (oracle == "ocr_spelling")]
    inputs = []
    for index in range(number):
        spec = specs[index * 7919 % len(specs)]  # a prime stride: all kinds, in no order
        sample = Sample(
            run_id="benchmark",
            group_id=f"g{index // GROUP_SIZE}",
            sample_id=f"s{index}",
            policy_version=0,
            boundary_index=4,
            prompt=spec.prompt,
            checks=Checks.from_metadata(spec.checks),
        )
        inputs.append(OracleInput(sample, render(scene_for(spec.checks, rng)).picture))
    return inputs


def as_class(oracle: Oracle, inputs: Sequence[OracleInput]) -> float:
    """Pictures a second of plain calls, in batches."""
    began = time.perf_counter()
    for start in range(0, len(inputs), BATCH):
        results = oracle.score(inputs[start : start + BATCH])
        _require_scored(len(results), sum(isinstance(result, Scored) for result in results))
    return len(inputs) / (time.perf_counter() - began)


async def over_http(endpoint: OracleEndpoint, pending: Sequence[PendingSample]) -> float:
    """Pictures a second of the worker's own client, one batch after another."""
    claims = [
        Claim(
            entry_id=one.sample.sample_id,
            sample=one.sample,
            media_type=one.media_type,
            picture=one.picture,
            hint=None,
            attempts=0,
            deliveries=1,
        )
        for one in pending
    ]
    async with OracleClient(endpoint, policy=OutgoingPolicy.parse("127.0.0.0/8")) as client:
        began = time.perf_counter()
        for start in range(0, len(claims), BATCH):
            answer = await client.score(claims[start : start + BATCH])
            _require_scored(len(answer.results), sum(isinstance(result, Scored) for result in answer.results))
        return len(claims) / (time.perf_counter() - began)


async def through_the_road(redis_url: str, endpoint: OracleEndpoint, pending: Sequence[PendingSample]) -> float:
    """Pictures a second from the first enqueue to the last completion, with one worker that is already waiting."""
    run_id = f"bench-{uuid4().hex[:8]}"
    groups = [
        Group(group_id=f"g{start // GROUP_SIZE}", requests=tuple(pending[start : start + GROUP_SIZE]))
        for start in range(0, len(pending), GROUP_SIZE)
    ]
    client = await connect(redis_url)
    registry = Registry(client)
    await registry.put_oracle(endpoint)
    await registry.put_run(run_id)
    stream = open_redis_stream(client, run_id)
    try:
        async with worker_on_server(WorkerSettings(redis_url=redis_url, allowed_networks="127.0.0.0/8")) as worker:
            working = asyncio.create_task(worker.run())
            while (run_id, endpoint.name) not in worker.pumps:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # a worker says what it serves, not when it begins to
            began = time.perf_counter()
            for group in groups:
                admitted = await stream.enqueue(group, oracles=[endpoint.name])
                if not admitted[endpoint.name].accepted:
                    raise RuntimeError(f"{group.group_id} was refused: the oracle's byte budget is spent")
            await _wait_for_all(stream, len(groups))
            elapsed_s = time.perf_counter() - began
            worker.stop()
            await working
        for group in groups:
            results = (await stream.outcomes(group.group_id, endpoint.name)).results.values()
            _require_scored(len(group.requests), sum(isinstance(result, Scored) for result in results))
            await stream.forget(group.group_id)
    finally:
        await registry.end_run(run_id)
        await registry.remove_oracle(endpoint.name)
        await client.aclose()
    return len(pending) / elapsed_s


async def _wait_for_all(stream: Stream, num_groups: int) -> None:
    done: set[str] = set()
    after = "0"
    while len(done) < num_groups:
        completed, after = await stream.completions(after=after, wait_s=1.0)
        done |= {group_id for group_id, _ in completed}


def _require_scored(asked: int, scored: int) -> None:
    if scored != asked:
        raise RuntimeError(f"{asked - scored} of {asked} samples were not scored")


def _serve(name: str, port: int) -> None:
    """The oracle's process."""
    torch.set_num_threads(1)
    uvicorn.run(build_app(make_oracle(name, {})), host="127.0.0.1", port=port, log_level="warning")


@asynccontextmanager
async def served(name: str) -> AsyncIterator[OracleEndpoint]:
    """The oracle behind HTTP, in a process that ends with this context."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(name, port), daemon=True)
    process.start()
    endpoint = OracleEndpoint(name=name, url=f"http://127.0.0.1:{port}", max_batch=BATCH, concurrency=2, deadline_s=120)
    deadline = time.monotonic() + _START_S
    try:
        async with httpx.AsyncClient(base_url=endpoint.url, trust_env=False) as http:
            while True:
                with suppress(httpx.HTTPError):
                    if (await http.get("/v1/health")).status_code == httpx.codes.OK:
                        break
                if not process.is_alive() or time.monotonic() > deadline:
                    raise RuntimeError(f"{name} did not start within {_START_S:.0f} s")
                await asyncio.sleep(0.1)
        yield endpoint
    finally:
        process.terminate()
        process.join()


async def measure(name: str, *, redis_url: str, num_pictures: int, repetitions: int) -> list[Figure]:
    """One oracle on the three roads, which take turns so that a change of load meets all of them."""
    oracle, inputs = make_oracle(name, {}), draw(name, num_pictures)
    pending = [
        PendingSample(
            sample=one.sample,
            media_type=choose_media_type(one.picture),
            picture=encode_picture(one.picture, choose_media_type(one.picture)),
        )
        for one in inputs
    ]
    values: dict[str, list[float]] = {"as a class": [], "over HTTP": [], "through the whole road": []}
    async with served(name) as endpoint:
        as_class(oracle, inputs[:BATCH])  # warm-up, as is the first call over HTTP
        await over_http(endpoint, pending[:BATCH])
        for _ in range(repetitions):
            values["as a class"].append(as_class(oracle, inputs))
            values["over HTTP"].append(await over_http(endpoint, pending))
            values["through the whole road"].append(await through_the_road(redis_url, endpoint, pending))
    figures = [Figure(f"{name} {road}", "pictures/s", measured) for road, measured in values.items()]
    ratios = [far / near for far, near in zip(values["through the whole road"], values["as a class"], strict=True)]
    return [*figures, Figure(f"{name}: road / class", "ratio", ratios, note=f"{num_pictures} pictures a value")]


async def main() -> None:
    """Runs the benchmark that the arguments ask for."""
    made = parser(__doc__)
    made.add_argument("--oracle", choices=ORACLES, action="append", help="this one only (may be repeated)")
    made.add_argument("--pictures", type=int, default=256, metavar="N", help="pictures for each value (default 256)")
    arguments = made.parse_args()
    torch.set_num_threads(1)
    configure_logging(level="WARNING")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="rewardmesh-bench-") as folder:
        server = EmbeddedServer(Path(folder) / "data", binary=find_server())
        server.start()
        try:
            for name in arguments.oracle or ORACLES:
                figures += await measure(
                    name, redis_url=server.url, num_pictures=arguments.pictures, repetitions=arguments.repetitions
                )
        finally:
            server.stop()
    report("oracles", figures, json_file=arguments.json)


if __name__ == "__main__":
    asyncio.run(main())
