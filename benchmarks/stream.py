"""Groups a second through the stream: enqueue, claim, settle, collect, forget, one after another in one process.

    python -m benchmarks.stream                 groups of 8 x 10 KB and 8 x 450 KB, on the embedded server and in memory
    python -m benchmarks.stream --url URL       on a server of yours (it gets one run's keys, which are removed again)
    python -m benchmarks.stream --long 100000   that many groups of one small picture; prints keys and memory on the way

Pictures are random bytes, which no codec or file system can shrink. Nothing overlaps: producers and workers in
processes of their own, as in a real run, move more.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from uuid import uuid4

from redis.asyncio import Redis

from benchmarks.record import Figure, parser, report
from benchmarks.served import embedded_server
from rewardmesh.wire import names
from rewardmesh.wire.buffer import connect, describe
from rewardmesh.wire.memory_stream import MemoryStream
from rewardmesh.wire.messages import Checks, Clause, Sample, Scored
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.stream import Group, PendingSample, Stream

GROUP_SIZE = 8
ORACLE = "object_count"
#: Bytes of a picture -> groups in one repetition.
SIZES = {10_000: 100, 450_000: 20}


def make_group(run_id: str, group_id: str, pictures: list[bytes]) -> Group:
    """A group with the checks of an ordinary counting prompt."""
    checks = Checks(tag="counting", include=(Clause(cls="circle", count=2, color="red"),))
    return Group(
        group_id=group_id,
        requests=tuple(
            PendingSample(
                sample=Sample(
                    run_id=run_id,
                    group_id=group_id,
                    sample_id=f"{group_id}/{index}",
                    policy_version=0,
                    boundary_index=4,
                    prompt="two red circles",
                    checks=checks,
                ),
                media_type="image/webp",
                picture=picture,
            )
            for index, picture in enumerate(pictures)
        ),
    )


async def pass_through(stream: Stream, group: Group) -> None:
    """The whole life of one group."""
    await stream.enqueue(group, oracles=[ORACLE])
    claims = await stream.claim(ORACLE, consumer="w1", max_samples=len(group.requests), lease_s=30)
    outcomes = [
        (claim, Scored(sample_id=claim.sample.sample_id, reward=0.5, detail={"found": ["circle"]})) for claim in claims
    ]
    await stream.settle(ORACLE, consumer="w1", outcomes=outcomes, version="1")
    if not (await stream.outcomes(group.group_id, ORACLE)).complete:
        raise RuntimeError(f"{group.group_id} did not complete")
    await stream.forget(group.group_id)


async def groups_a_second(stream: Stream, picture_bytes: int, num_groups: int) -> float:
    """One value: the mean over `num_groups` groups, after one that is not counted."""
    pictures = [random.randbytes(picture_bytes) for _ in range(GROUP_SIZE)]
    await pass_through(stream, make_group(stream.run_id, "warm-up", pictures))
    began = time.perf_counter()
    for index in range(num_groups):
        await pass_through(stream, make_group(stream.run_id, f"g{index}", pictures))
    return num_groups / (time.perf_counter() - began)


@asynccontextmanager
async def server(url: str | None) -> AsyncIterator[Redis]:
    """A client of the given server, or of an embedded one that lives as long as this context."""
    with embedded_server() if url is None else nullcontext(url) as there:
        client = await connect(there)
        yield client
        await client.aclose()


async def remove_run(client: Redis, run_id: str) -> None:
    """Takes this benchmark's keys off a server that others use."""
    pattern = names.prefix(run_id).replace("{", "\\{") + "*"
    async for key in client.scan_iter(match=pattern, count=1000):
        await client.unlink(key)


async def measure(client: Redis, repetitions: int) -> list[Figure]:
    """Both streams, both sizes; the two streams alternate, so that a change of load meets both."""
    info = await describe(client)
    run_id = f"bench-{uuid4().hex[:8]}"
    streams: dict[str, Callable[[], Stream]] = {
        f"{info.server} {info.version}, fsync {info.fsync}": lambda: open_redis_stream(client, run_id),
        "in memory": lambda: MemoryStream(run_id),
    }
    figures = []
    for picture_bytes, num_groups in SIZES.items():
        values: dict[str, list[float]] = {where: [] for where in streams}
        for _ in range(repetitions):
            for where, open_stream in streams.items():
                values[where].append(await groups_a_second(open_stream(), picture_bytes, num_groups))
        for where, measured in values.items():
            figures.append(Figure(f"{GROUP_SIZE} x {picture_bytes // 1000} KB", "groups/s", measured, note=where))
    await remove_run(client, run_id)
    return figures


async def long_run(client: Redis, num_groups: int) -> list[Figure]:
    """Keys and bytes of the run at ten points of a long one: flat, if nothing grows with its length."""
    run_id = f"bench-{uuid4().hex[:8]}"
    stream = open_redis_stream(client, run_id)
    pictures = [random.randbytes(2000)]
    keys, sizes, began = [], [], time.perf_counter()
    for index in range(num_groups):
        await pass_through(stream, make_group(run_id, f"g{index}", pictures))
        if (index + 1) % max(1, num_groups // 10) == 0:
            found = [key async for key in client.scan_iter(match=names.prefix(run_id).replace("{", "\\{") + "*")]
            keys.append(float(len(found)))
            sizes.append(sum([await client.memory_usage(key, samples=0) or 0 for key in found]) / 1000)
    wall_s = time.perf_counter() - began
    await remove_run(client, run_id)
    return [
        Figure("keys of the run", "keys", keys, note=f"at ten points of {num_groups} groups"),
        Figure("bytes of the run", "KB", sizes, note="the completions, trimmed at ten thousand, are the most of it"),
        Figure("1 x 2 KB", "groups/s", [num_groups / wall_s]),
    ]


async def main() -> None:
    """Runs the benchmark that the arguments ask for."""
    made = parser(__doc__)
    made.add_argument("--url", help="a server to use instead of the embedded one")
    made.add_argument("--long", type=int, metavar="N", help="a run of N groups instead: does anything grow?")
    arguments = made.parse_args()
    async with server(arguments.url) as client:
        if arguments.long:
            figures = await long_run(client, arguments.long)
        else:
            figures = await measure(client, arguments.repetitions)
    report("stream", figures, json_file=arguments.json)


if __name__ == "__main__":
    asyncio.run(main())
