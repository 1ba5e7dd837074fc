"""One oracle as one worker sees it: its client, its concurrency, and its turns under the shared breaker.

All runs that use the oracle share the link, so that its concurrency holds for the worker and not for each run. While
the breaker is open nobody claims for the oracle; the one that probes claims a single sample. So an oracle that is away
for hours costs an attempt of one sample from time to time, and the others wait in the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast
from uuid import uuid4

from reward_workers.client import Answer, OracleClient
from reward_workers.meter import Meter
from reward_workers.policy import RetryPolicy
from reward_workers.settings import WorkerSettings
from reward_workers.spans import sample_spans
from rewardmesh.dialects.failures import CallFailure, Overloaded, RequestRefused
from rewardmesh.wire.errors import BufferFault, OracleError, ProtocolError
from rewardmesh.wire.messages import OracleEndpoint, OracleInfo
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.registry import OracleRegistry
from rewardmesh.wire.stream import Claim
from rewardmesh.wire.telemetry import get_logger

__all__ = ["OracleLink", "Turn", "wait_for"]

#: Beyond its deadline and the wait for a claim, a probe may take this long before somebody else takes it.
_PROBE_GRACE_S = 2.0
_SHORTEST_LOOK_S = 0.02

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


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Leave to claim once and to ask about it. A probe is for a single sample, and to be given back unused."""

    caller: str
    probing: bool


class OracleLink:
    """Shared by all pumps of one worker that feed the same oracle."""

    def __init__(
        self,
        endpoint: OracleEndpoint,
        *,
        secret: str | None = None,
        registry: OracleRegistry,
        settings: WorkerSettings,
        meter: Meter,
    ) -> None:
        self.endpoint = endpoint
        self._secret = secret
        self.policy = RetryPolicy.of(endpoint, cap_s=settings.max_backoff_s)
        self._registry = registry
        self._settings = settings
        self._meter = meter
        self._client = OracleClient(
            endpoint,
            policy=OutgoingPolicy.parse(settings.allowed_networks),
            secret=secret,
            max_reply_bytes=settings.max_reply_bytes,
            connect_timeout_s=settings.connect_timeout_s,
        )
        self._version = endpoint.version  # the last that answered
        self._slots = asyncio.Semaphore(endpoint.concurrency)
        self._line = asyncio.Lock()

    @property
    def max_batch(self) -> int:
        """Samples in one request."""
        return self._client.max_batch

    @property
    def judges_groups(self) -> bool:
        """Whether it is asked about whole groups, each in a request of its own."""
        return self.endpoint.granularity == "group"

    @property
    def labels(self) -> dict[str, str]:
        """Of all that is measured of the oracle: its name, and the version that answered last."""
        return {"oracle": self.endpoint.name, "version": self._version}

    async def info(self, *, max_age_s: float) -> OracleInfo:
        """What the oracle says about itself, not longer ago than that. Raises a `CallFailure`."""
        return await self._client.info(max_age_s=max_age_s)

    def serves(self, endpoint: OracleEndpoint | None, secret: str | None) -> bool:
        """Whether this is still what the registry says of the oracle."""
        return (endpoint, secret) == (self.endpoint, self._secret)

    async def aclose(self) -> None:
        """Closes the oracle's connections."""
        await self._client.aclose()

    async def turn(self, stopping: asyncio.Event) -> Turn | None:
        """Waits until the breaker lets us claim; None once `stopping` is set. Raises BufferFault."""
        caller, name = uuid4().hex, self.endpoint.name
        probe_s = self.endpoint.deadline_s + self._settings.claim_wait_s + _PROBE_GRACE_S
        while not stopping.is_set():
            state = await self._registry.breaker_enter(name, caller=caller, probe_s=probe_s)
            if state.admits(caller):
                return Turn(caller=caller, probing=state.kind == "probing")
            # Looks again early: another worker's probe, or an operator, may have closed it.
            await wait_for(stopping, min(max(state.wait_s, _SHORTEST_LOOK_S), self._settings.discover_every_s))
        return None

    async def give_back(self, turn: Turn) -> None:
        """Ends a turn. A probe without an answer is somebody else's at once; otherwise this changes nothing."""
        if turn.probing:
            try:
                await self._registry.breaker_leave(self.endpoint.name, caller=turn.caller)
            except BufferFault as error:
                _log.warning("breaker.not_told", oracle=self.endpoint.name, detail=str(error))

    async def score(self, claims: Sequence[Claim], *, turn: Turn, alone: bool = False) -> Answer:
        """Asks within the oracle's concurrency, and tells the breaker how it went. Raises a `CallFailure`.

        `alone`: while this worker asks it nothing else, for a sample that may take down whatever is asked beside it.
        """
        async with self._slot(self.endpoint.concurrency if alone else 1):
            began_s = asyncio.get_running_loop().time()
            try:
                with sample_spans("ask", claims, oracle=self.endpoint.name) as traced:
                    answer = await self._client.score(traced)
            except (OracleError, ProtocolError) as error:
                failure = cast("CallFailure", error)  # the client raises nothing else
                if isinstance(failure, RequestRefused):
                    await self._tell(None, turn)  # it is there and it reads; what it was asked is another matter
                else:
                    await self._tell(failure, turn)
                raise
            finally:
                seconds = asyncio.get_running_loop().time() - began_s
                self._meter.observe("rewardmesh_oracle_latency_s", seconds, phase="call", **self.labels)
                self._meter.observe("rewardmesh_oracle_batch_samples", len(claims), **self.labels)
        self._version = answer.version
        await self._tell(None, turn)
        return answer

    @asynccontextmanager
    async def _slot(self, wanted: int) -> AsyncIterator[None]:
        """Holds so many of the oracle's slots. Served in line, so that who wants all of them gets them."""
        taken = 0
        try:
            async with self._line:
                while taken < wanted:
                    await self._slots.acquire()
                    taken += 1
            yield
        finally:
            for _ in range(taken):
                self._slots.release()

    async def _tell(self, failure: CallFailure | None, turn: Turn) -> None:
        """Tells the breaker. A server that does not listen is no reason to lose an answer: the next call tells it."""
        name = self.endpoint.name
        try:
            if failure is None:
                await self._registry.breaker_succeeded(name)
                return
            retry_after_s = (failure.retry_after_s or 0.0) if isinstance(failure, Overloaded) else 0.0
            state = await self._registry.breaker_failed(
                name, caller=turn.caller, bounds=self.endpoint.breaker, retry_after_s=retry_after_s
            )
        except BufferFault as error:
            _log.warning("breaker.not_told", oracle=name, detail=str(error))
            return
        labels = self.labels | {"code": failure.code, "breaker": state.kind}
        self._meter.count("rewardmesh_oracle_calls_failed", 1, **labels)
        _log.warning(
            "oracle.call_failed",
            oracle=name,
            code=failure.code,
            detail=str(failure),
            failures=state.failures,
            breaker=state.kind,
            pause_s=round(state.wait_s, 3),
        )
