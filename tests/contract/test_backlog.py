"""What autoscaling reads: the samples that wait for an oracle, over all runs, on a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import Scored
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from services.autoscaling import StreamLagPolicy, backlog


async def test_backlog_counts_lag_and_pending_of_live_runs(
    new_server: Callable[..., Any], make_group: Callable[..., Any]
) -> None:
    url = new_server().url
    client = await connect(url)
    runs = [f"run-{uuid4().hex[:8]}" for _ in range(2)]
    streams = [open_redis_stream(client, run) for run in runs]
    for run, stream in zip(runs, streams, strict=True):
        await Registry(client).put_run(run)
        await stream.enqueue(make_group("g1", 3), oracles=["object_count"])
    assert await backlog(url, "object_count") == 6
    assert await backlog(url, "ocr_spelling") == 0
    claims = await streams[0].claim("object_count", consumer="w", max_samples=2, lease_s=30)
    assert await backlog(url, "object_count") == 6  # delivered, not settled
    outcomes = [(claim, Scored(sample_id=claim.sample.sample_id, reward=1.0)) for claim in claims]
    await streams[0].settle("object_count", consumer="w", outcomes=outcomes, version="1")
    assert await backlog(url, "object_count") == 4
    await Registry(client).end_run(runs[1])
    assert await backlog(url, "object_count") == 1
    await client.aclose()


async def test_the_policy_reads_it_by_itself(new_server: Callable[..., Any], make_group: Callable[..., Any]) -> None:
    url = new_server().url
    client = await connect(url)
    await Registry(client).put_run("run")
    await open_redis_stream(client, "run").enqueue(make_group("g1", 5), oracles=["object_count"])
    policy = StreamLagPolicy(oracle="object_count", samples_per_replica=2, redis_url=url, poll_s=0.01)
    context = cast("Any", SimpleNamespace(target_num_replicas=1))
    deadline = time.monotonic() + 30
    while policy(context)[0] != 3:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await client.aclose()
