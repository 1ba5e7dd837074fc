"""Pictures a second of object_count while ocr_spelling hangs, against the same without ocr_spelling.

    python -m benchmarks.hung_oracle              a light oracle with a fixed service time stands for object_count
    python -m benchmarks.hung_oracle --real       the shipped detector

For each value a backlog is put on the stream, then a worker is let at it; the clock runs from the first completed group
to the last. The hung oracle says what it is and never answers a score: its calls end at a deadline of a second, and
are retried and given up, all inside the time that is measured. The two conditions take turns.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from functools import partial
from uuid import uuid4

from benchmarks.neighbours import draw_groups, light_app, light_endpoint
from benchmarks.record import Figure, parser, report
from benchmarks.served import LOOPBACK, app_process, embedded_server
from reward_workers.process import worker_on_server
from reward_workers.settings import WorkerSettings
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.codec import choose_media_type, encode_picture
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.redis_stream import RedisStream, open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Group, PendingSample, StreamSettings
from rewardmesh.wire.telemetry import configure_logging

PROMISED = 0.9
GROUP_SIZE = 8
WORKING, HUNG = "object_count", "ocr_spelling"


def real_groups(num_groups: int) -> list[Group]:
    """Rendered pictures of the shapes world."""
    from benchmarks import road  # noqa: PLC0415 - brings torch, which the light form does without

    return [
        Group(
            group_id=group.group_id,
            requests=tuple(
                PendingSample(
                    sample=sample,
                    media_type=choose_media_type(pictured.picture),
                    picture=encode_picture(pictured.picture, choose_media_type(pictured.picture)),
                )
                for sample, pictured in zip(group.wire_samples(), group.samples, strict=True)
            ),
        )
        for group in road.draw_groups(WORKING, num_groups * GROUP_SIZE)
    ]


async def pictures_a_second(redis_url: str, endpoints: Sequence[OracleEndpoint], groups: Sequence[Group]) -> float:
    """One value: object_count's rate while every one of `endpoints` has the same backlog."""
    run_id = f"bench-{uuid4().hex[:8]}"
    client = await connect(redis_url)
    registry = Registry(client)
    stream = open_redis_stream(client, run_id, settings=StreamSettings(budget_bytes=256 * 2**20))
    try:
        for group in groups:
            admitted = await stream.enqueue(group, oracles=[endpoint.name for endpoint in endpoints])
            if not all(admission.accepted for admission in admitted.values()):
                raise RuntimeError("the backlog does not fit into the oracle's byte budget")
        for endpoint in endpoints:
            await registry.put_oracle(endpoint)
        await registry.put_run(run_id)
        async with worker_on_server(
            WorkerSettings(redis_url=redis_url, drain_s=0.1, allowed_networks=LOOPBACK)
        ) as worker:
            working = asyncio.create_task(worker.run())
            try:
                rate = await _rate(stream, len(groups))
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


async def measure(
    redis_url: str, working: OracleEndpoint, hung: OracleEndpoint, *, groups: Sequence[Group], repetitions: int
) -> list[Figure]:
    """Both conditions in turns, and their ratios pair by pair."""
    undisturbed: list[float] = []
    disturbed: list[float] = []
    await pictures_a_second(redis_url, [working], groups[:32])  # warm-up
    for _ in range(repetitions):
        undisturbed.append(await pictures_a_second(redis_url, [working], groups))
        disturbed.append(await pictures_a_second(redis_url, [working, hung], groups))
    ratios = [with_hung / without for with_hung, without in zip(disturbed, undisturbed, strict=True)]
    return [
        Figure(f"{WORKING} alone", "pictures/s", undisturbed, note=f"{len(groups) * GROUP_SIZE} pictures a value"),
        Figure(f"{WORKING} beside a hung {HUNG}", "pictures/s", disturbed),
        Figure("hung / alone", "ratio", ratios, note=f"promised: {PROMISED} at least, in the median"),
    ]


def main() -> int:
    """Runs the benchmark; 1 if the promise is not kept."""
    made = parser(__doc__)
    made.add_argument("--real", action="store_true", help="the shipped object_count instead of the light one")
    made.add_argument(
        "--pictures", type=int, default=None, metavar="N", help="for each value (default 4096, real 1024)"
    )
    arguments = made.parse_args()
    num_groups = (arguments.pictures or (1024 if arguments.real else 4096)) // GROUP_SIZE
    configure_logging(level="ERROR")
    if arguments.real:
        from benchmarks import road  # noqa: PLC0415 - see real_groups

        app, endpoint_at, groups = partial(road.app_of, WORKING), road.endpoint_at, real_groups(num_groups)
    else:
        app, endpoint_at, groups = partial(light_app, WORKING), light_endpoint, draw_groups(num_groups, GROUP_SIZE)
    hung_app = partial(light_app, HUNG, "hang")
    with embedded_server() as redis_url, app_process(app) as working_url, app_process(hung_app) as hung_url:
        working = endpoint_at(WORKING, working_url)
        hung = light_endpoint(HUNG, hung_url).model_copy(update={"deadline_s": 1.0, "max_attempts": 2})
        figures = asyncio.run(measure(redis_url, working, hung, groups=groups, repetitions=arguments.repetitions))
    what = "the shipped detector" if arguments.real else "a light oracle stands for object_count"
    report("hung_oracle", figures, json_file=arguments.json, title=f"benchmarks.hung_oracle: {what}")
    return 0 if figures[-1].median >= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
