"""How many replicas an oracle needs, by how much waits for it in its streams.

Serve's own autoscaler sees requests, and the workers send only so many at once: the backlog is in the buffer. Serve
calls the policy ten times a second in its controller, which must never wait; a thread asks the buffer instead, and the
policy answers from the last number it brought. With no number, or one too old, it leaves the replicas as they are.
Serve applies the bounds and delays of the deployment's AutoscalingConfig to what is returned.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

__all__ = ["StreamLagPolicy", "backlog"]

_CONNECT_AGAIN_S = 5.0


class StreamLagPolicy:
    """Replicas = backlog / samples_per_replica, rounded up; backlog is lag + pending over all runs that are alive.

    A deployment names it in its AutoscalingPolicy as `services.autoscaling:StreamLagPolicy`. The dashboard shows
    `policy_kwargs`: leave `redis_url` out if it holds a password, and set REDIS_URL on the head node.
    """

    def __init__(
        self,
        *,
        oracle: str,
        samples_per_replica: int,
        redis_url: str | None = None,
        poll_s: float = 1.0,
        forget_after_s: float = 30.0,
    ) -> None:
        """Asks nothing yet: Serve also makes policies only to look at them. `forget_after_s`: a number is too old."""
        self.oracle = oracle
        self.samples_per_replica = samples_per_replica
        self.redis_url = redis_url or os.environ.get("REDIS_URL")
        self.poll_s = poll_s
        self.forget_after_s = forget_after_s
        self._seen: tuple[int, float] | None = None  # backlog and when it was read; replaced whole, so no lock
        self._thread: threading.Thread | None = None

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The wanted number of replicas and no state of ours. Never blocks."""
        if self._thread is None and self.redis_url:
            self._thread = threading.Thread(
                target=_watch, args=(weakref.ref(self),), name=f"backlog-{self.oracle}", daemon=True
            )
            self._thread.start()
        seen = self._seen
        if seen is None or time.monotonic() - seen[1] > self.forget_after_s:
            return ctx.target_num_replicas, {}
        return max(1, math.ceil(seen[0] / self.samples_per_replica)), {}

    def learn(self, samples: int) -> None:
        """Takes a number that was just read."""
        self._seen = (samples, time.monotonic())


async def backlog(redis_url: str, oracle: str) -> int:
    """Samples that wait for the oracle, or that it works on, over all runs. Raises BufferUnavailable."""
    from rewardmesh.wire.buffer import connect  # noqa: PLC0415 - Serve imports this module wherever it reads a config

    client = await connect(redis_url)
    try:
        return await _backlog(client, oracle)
    finally:
        await client.aclose()


async def _backlog(client: Any, oracle: str) -> int:
    from rewardmesh.wire.redis_stream import open_redis_stream  # noqa: PLC0415 - as above
    from rewardmesh.wire.registry import Registry  # noqa: PLC0415 - as above

    depths = [await open_redis_stream(client, run).depth(oracle) for run in await Registry(client).runs()]
    return sum(depth.lag + depth.pending for depth in depths)


def _watch(policy_ref: weakref.ref[StreamLagPolicy]) -> None:
    """The thread: reads until the policy is gone (Serve makes a new one on every change of the deployment)."""
    from rewardmesh.wire.errors import RewardmeshError  # noqa: PLC0415 - as above

    failed = False
    while (policy := policy_ref()) is not None and policy.redis_url:
        redis_url, oracle, pause_s = policy.redis_url, policy.oracle, policy.poll_s
        del policy  # not held while waiting, or it would never be gone
        try:
            asyncio.run(_read_until_gone(policy_ref, redis_url, oracle))
        except (RewardmeshError, OSError) as error:
            if not failed:
                logging.getLogger("ray.serve").warning("autoscaling of %s cannot read the buffer: %s", oracle, error)
            failed, pause_s = True, _CONNECT_AGAIN_S
        time.sleep(pause_s)


async def _read_until_gone(policy_ref: weakref.ref[StreamLagPolicy], redis_url: str, oracle: str) -> None:
    from rewardmesh.wire.buffer import connect  # noqa: PLC0415 - as above

    client = await connect(redis_url)
    try:
        while True:
            samples = await _backlog(client, oracle)
            policy = policy_ref()
            if policy is None:
                return
            policy.learn(samples)
            pause_s = policy.poll_s
            del policy
            await asyncio.sleep(pause_s)
    finally:
        await client.aclose()
