"""The registry: where each oracle is and what it bears, whether it is called at all, and which runs are alive.

Durable and live: it is on the server, and whoever looks sees the present state. What a run learns *from* (weights,
policies) is its recipe's business and is not kept here. Secrets are kept beside the oracles, never inside: what lists
or shows an oracle cannot show its secret.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.breaker import BreakerState, MemoryBreaker
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.errors import UnknownOracle
from rewardmesh.wire.messages import BreakerBounds, OracleEndpoint
from rewardmesh.wire.scripts import script

__all__ = ["MemoryRegistry", "OracleRegistry", "Registry"]

_WHICH = "registry"


class OracleRegistry(Protocol):
    """What workers, trainers and operators ask of a registry.

    Every call but `add_oracle` and `breaker_failed` is idempotent. Failures of the server are raised as
    `BufferUnavailable`.
    """

    async def put_oracle(self, endpoint: OracleEndpoint, *, secret: str | None = None) -> None:
        """Adds the oracle, or replaces what was known under its name; its breaker is closed.

        A secret is kept before anybody hears of the oracle, so that nobody asks it without; None leaves what is kept.
        """

    async def add_oracle(self, endpoint: OracleEndpoint, *, secret: str | None = None) -> bool:
        """Adds the oracle and its secret, unless its name is taken; says whether it did. Of two at once, one does."""

    async def oracles(self) -> list[OracleEndpoint]:
        """All oracles, by name."""

    async def oracle(self, name: str) -> OracleEndpoint:
        """One oracle. Raises UnknownOracle."""

    async def remove_oracle(self, name: str) -> None:
        """Forgets the oracle, its secret, and what is kept of it; removing an unknown one is no error."""

    async def put_secret(self, name: str, secret: str | None) -> None:
        """Keeps the bearer token that we send to the oracle; None forgets it. Raises UnknownOracle."""

    async def secret(self, name: str) -> str | None:
        """The bearer token that we send to the oracle; None if it wants none. Not to be logged or shown."""

    async def breaker(self, name: str) -> BreakerState:
        """How the oracle's breaker stands; closed for an oracle that nobody called."""

    async def breaker_enter(self, name: str, *, caller: str, probe_s: float) -> BreakerState:
        """How it stands, after the caller has taken the probe if it is due; then it has `probe_s` to say how it went.

        Ask before each claim, and claim only if the state `admits` the caller.
        """

    async def breaker_leave(self, name: str, *, caller: str) -> None:
        """Gives back a probe for which there was nothing to ask."""

    async def breaker_succeeded(self, name: str) -> None:
        """Says that a call succeeded: the breaker is closed."""

    async def breaker_failed(
        self, name: str, *, caller: str, bounds: BreakerBounds, retry_after_s: float = 0.0
    ) -> BreakerState:
        """Counts a call that failed as a whole, and says how the breaker stands since."""

    async def put_run(self, run_id: str) -> None:
        """Says that the run is alive: workers serve its streams from now on."""

    async def runs(self) -> list[str]:
        """All runs that are alive, sorted."""

    async def end_run(self, run_id: str) -> None:
        """Says that the run needs no more work."""


class Registry:
    """The registry on the server, shared by all runs."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._add_script = redis.register_script(script("add_oracle"))
        self._breaker_script = redis.register_script(script("breaker"))

    async def put_oracle(self, endpoint: OracleEndpoint, *, secret: str | None = None) -> None:
        with server_errors(_WHICH):
            if secret is not None:
                await self._redis.hset(names.REGISTRY_SECRETS, endpoint.name, secret)
            await self._redis.hset(names.REGISTRY_ORACLES, endpoint.name, endpoint.to_json())
            await self._redis.delete(names.breaker_key(endpoint.name))

    async def add_oracle(self, endpoint: OracleEndpoint, *, secret: str | None = None) -> bool:
        keys = [names.REGISTRY_ORACLES, names.REGISTRY_SECRETS]
        with server_errors(_WHICH):
            return bool(await self._add_script(keys=keys, args=[endpoint.name, endpoint.to_json(), secret or ""]))

    async def oracles(self) -> list[OracleEndpoint]:
        with server_errors(_WHICH):
            kept = await self._redis.hgetall(names.REGISTRY_ORACLES)
        return sorted(map(OracleEndpoint.model_validate_json, kept.values()), key=lambda endpoint: endpoint.name)

    async def oracle(self, name: str) -> OracleEndpoint:
        with server_errors(_WHICH):
            kept = await self._redis.hget(names.REGISTRY_ORACLES, name)
        if kept is None:
            raise _unknown(name)
        return OracleEndpoint.model_validate_json(kept)

    async def remove_oracle(self, name: str) -> None:
        with server_errors(_WHICH):
            await self._redis.hdel(names.REGISTRY_ORACLES, name)
            await self._redis.hdel(names.REGISTRY_SECRETS, name)
            await self._redis.delete(names.breaker_key(name))
            await self._redis.delete(*names.answer_keys(name))

    async def put_secret(self, name: str, secret: str | None) -> None:
        await self.oracle(name)
        with server_errors(_WHICH):
            if secret is None:
                await self._redis.hdel(names.REGISTRY_SECRETS, name)
            else:
                await self._redis.hset(names.REGISTRY_SECRETS, name, secret)

    async def secret(self, name: str) -> str | None:
        with server_errors(_WHICH):
            kept = await self._redis.hget(names.REGISTRY_SECRETS, name)
        return None if kept is None else names.text(kept)

    async def breaker(self, name: str) -> BreakerState:
        return await self._ask_breaker(name, "read", "", 0)

    async def breaker_enter(self, name: str, *, caller: str, probe_s: float) -> BreakerState:
        return await self._ask_breaker(name, "enter", caller, _ms(probe_s))

    async def breaker_leave(self, name: str, *, caller: str) -> None:
        await self._ask_breaker(name, "leave", caller, 0)

    async def breaker_succeeded(self, name: str) -> None:
        with server_errors(_WHICH):
            await self._redis.delete(names.breaker_key(name))

    async def breaker_failed(
        self, name: str, *, caller: str, bounds: BreakerBounds, retry_after_s: float = 0.0
    ) -> BreakerState:
        limits = (bounds.failures_to_open, _ms(bounds.open_s), _ms(bounds.max_open_s))
        return await self._ask_breaker(name, "failed", caller, _ms(retry_after_s), *limits)

    async def put_run(self, run_id: str) -> None:
        with server_errors(_WHICH):
            await self._redis.sadd(names.REGISTRY_RUNS, run_id)

    async def runs(self) -> list[str]:
        with server_errors(_WHICH):
            members = await self._redis.smembers(names.REGISTRY_RUNS)
        return sorted(names.text(member) for member in members)

    async def end_run(self, run_id: str) -> None:
        with server_errors(_WHICH):
            await self._redis.srem(names.REGISTRY_RUNS, run_id)

    async def _ask_breaker(self, name: str, *args: str | int) -> BreakerState:
        with server_errors(_WHICH):
            answer: Any = await self._breaker_script(keys=[names.breaker_key(name)], args=args)
        failures, wait_ms, prober = answer
        if wait_ms < 0:
            return BreakerState(kind="closed", failures=failures)
        who = names.text(prober)
        return BreakerState(kind="probing" if who else "open", failures=failures, wait_s=wait_ms / 1000, prober=who)


class MemoryRegistry:
    """The registry of a single process. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._oracles: dict[str, OracleEndpoint] = {}
        self._secrets: dict[str, str] = {}
        self._breakers: dict[str, MemoryBreaker] = {}
        self._runs: set[str] = set()

    async def put_oracle(self, endpoint: OracleEndpoint, *, secret: str | None = None) -> None:
        if secret is not None:
            self._secrets[endpoint.name] = secret
        self._oracles[endpoint.name] = endpoint
        self._breakers.pop(endpoint.name, None)

    async def add_oracle(self, endpoint: OracleEndpoint, *, secret: str | None = None) -> bool:
        if endpoint.name in self._oracles:
            return False
        await self.put_oracle(endpoint)
        await self.put_secret(endpoint.name, secret)
        return True

    async def oracles(self) -> list[OracleEndpoint]:
        return [self._oracles[name] for name in sorted(self._oracles)]

    async def oracle(self, name: str) -> OracleEndpoint:
        if name not in self._oracles:
            raise _unknown(name)
        return self._oracles[name]

    async def remove_oracle(self, name: str) -> None:
        self._oracles.pop(name, None)
        self._secrets.pop(name, None)
        self._breakers.pop(name, None)

    async def put_secret(self, name: str, secret: str | None) -> None:
        await self.oracle(name)
        if secret is None:
            self._secrets.pop(name, None)
        else:
            self._secrets[name] = secret

    async def secret(self, name: str) -> str | None:
        return self._secrets.get(name)

    async def breaker(self, name: str) -> BreakerState:
        return self._breaker(name).state()

    async def breaker_enter(self, name: str, *, caller: str, probe_s: float) -> BreakerState:
        return self._breaker(name).enter(caller, probe_s)

    async def breaker_leave(self, name: str, *, caller: str) -> None:
        self._breaker(name).leave(caller)

    async def breaker_succeeded(self, name: str) -> None:
        self._breakers.pop(name, None)

    async def breaker_failed(
        self, name: str, *, caller: str, bounds: BreakerBounds, retry_after_s: float = 0.0
    ) -> BreakerState:
        return self._breaker(name).failed(caller, bounds, retry_after_s)

    async def put_run(self, run_id: str) -> None:
        self._runs.add(run_id)

    async def runs(self) -> list[str]:
        return sorted(self._runs)

    async def end_run(self, run_id: str) -> None:
        self._runs.discard(run_id)

    def _breaker(self, name: str) -> MemoryBreaker:
        return self._breakers.setdefault(name, MemoryBreaker(self._clock))


def _unknown(name: str) -> UnknownOracle:
    return UnknownOracle("no oracle of that name is registered", name, "rewardmesh oracle list shows those that are")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
