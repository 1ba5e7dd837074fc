"""One oracle as one worker sees it: its client, its concurrency, and the pause after a call that failed as a whole.

    healthy ──call fails as a whole──► pausing ──pause is over──► one call on trial ──succeeds──► healthy
                                          ▲                              │
                                          └──────────── fails ───────────┘   (a longer pause)

All runs that use the oracle share the link, so that its concurrency holds for the worker and not for each run. While it
is not healthy, one lane at a time claims and asks: an oracle that is away for a while costs a few attempts of a few
samples, and the others wait in the stream.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

from reward_workers.client import Answer, OracleClient
from reward_workers.failures import CallFailure, Overloaded, RequestRefused
from reward_workers.meter import Meter
from reward_workers.policy import RetryPolicy, backoff_s
from reward_workers.settings import WorkerSettings
from rewardmesh.wire.errors import OracleError, ProtocolError
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.stream import Claim
from rewardmesh.wire.telemetry import get_logger

__all__ = ["OracleLink", "wait_for"]

_log = get_logger("reward_workers.link")


async def wait_for(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether the event was set within the time."""
    if timeout_s <= 0:
        return event.is_set()
    try:
        async with asyncio.timeout(timeout_s):
            return await event.wait()
    except TimeoutError:
        return event.is_set()


class OracleLink:
    """Shared by all pumps of one worker that feed the same oracle."""

    def __init__(self, endpoint: OracleEndpoint, *, settings: WorkerSettings, meter: Meter, rng: random.Random) -> None:
        self.endpoint = endpoint
        self.policy = RetryPolicy.of(endpoint, cap_s=settings.max_backoff_s)
        self._meter = meter
        self._rng = rng
        self._client = OracleClient(
            endpoint,
            policy=OutgoingPolicy.parse(settings.allowed_networks),
            max_reply_bytes=settings.max_reply_bytes,
            connect_timeout_s=settings.connect_timeout_s,
        )
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._trial = asyncio.Lock()
        self._failures = 0  # calls in a row that failed as a whole
        self._paused_until = 0.0  # loop time

    @property
    def max_batch(self) -> int:
        """Samples in one request."""
        return self._client.max_batch

    @property
    def healthy(self) -> bool:
        """Whether the last call to it succeeded (or none was made yet)."""
        return self._failures == 0

    async def aclose(self) -> None:
        """Closes the oracle's connections."""
        await self._client.aclose()

    @asynccontextmanager
    async def turn(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """Wraps one claim and its call: free while the oracle is healthy, else one at a time and after the pause.

        Ends its wait early when `stopping` is set.
        """
        if not self.healthy:
            async with self._trial:
                if not self.healthy:
                    await wait_for(stopping, self._paused_until - asyncio.get_running_loop().time())
                    yield
                    return
        yield

    async def score(self, claims: Sequence[Claim]) -> Answer:
        """Asks within the oracle's concurrency. Raises a `CallFailure`; remembers whether it succeeded."""
        async with self._slots:
            began_s = asyncio.get_running_loop().time()
            try:
                answer = await self._client.score(claims)
            except (OracleError, ProtocolError) as error:
                failure = cast("CallFailure", error)  # the client raises nothing else
                if isinstance(failure, RequestRefused):
                    self._note_success()  # it is there and it reads; what it was asked is another matter
                else:
                    self._note_failure(failure)
                raise
            finally:
                seconds = asyncio.get_running_loop().time() - began_s
                self._meter.observe("rewardmesh_oracle_latency_s", seconds, oracle=self.endpoint.name)
        self._note_success()
        return answer

    def _note_success(self) -> None:
        if not self.healthy:
            _log.info("oracle.back", oracle=self.endpoint.name, failures=self._failures)
        self._failures = 0

    def _note_failure(self, failure: CallFailure) -> None:
        self._failures += 1
        pause_s = backoff_s(
            self._rng.random(), failures=self._failures, base_s=self.endpoint.retry_base_s, cap_s=self.policy.cap_s
        )
        if isinstance(failure, Overloaded) and failure.retry_after_s is not None:
            # Its own word, as far as we are ready to wait for anything of its.
            pause_s = max(pause_s, min(failure.retry_after_s, max(self.policy.budget_s, self.policy.cap_s)))
        self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + pause_s)
        _log.warning(
            "oracle.call_failed",
            oracle=self.endpoint.name,
            code=failure.code,
            detail=str(failure),
            failures=self._failures,
            pause_s=round(pause_s, 3),
        )
