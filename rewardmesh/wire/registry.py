"""The registry: where each oracle is and what it bears, and which runs are alive. Durable and live.

What a run learns *from* (weights, policies) is its recipe's business and is not kept here.
"""

from __future__ import annotations

from typing import Protocol

from redis.asyncio import Redis

from rewardmesh.wire import names
from rewardmesh.wire.buffer import server_errors
from rewardmesh.wire.messages import OracleEndpoint

__all__ = ["MemoryRegistry", "OracleRegistry", "Registry"]

_WHICH = "registry"


class OracleRegistry(Protocol):
    """What workers and trainers ask of a registry. Every call is idempotent."""

    async def put_oracle(self, endpoint: OracleEndpoint) -> None:
        """Adds the oracle, or replaces what was known under its name."""

    async def oracles(self) -> list[OracleEndpoint]:
        """All oracles, by name."""

    async def remove_oracle(self, name: str) -> None:
        """Forgets the oracle; removing an unknown one is no error."""

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

    async def put_oracle(self, endpoint: OracleEndpoint) -> None:
        with server_errors(_WHICH):
            await self._redis.hset(names.REGISTRY_ORACLES, endpoint.name, endpoint.to_json())

    async def oracles(self) -> list[OracleEndpoint]:
        with server_errors(_WHICH):
            kept = await self._redis.hgetall(names.REGISTRY_ORACLES)
        return sorted(map(OracleEndpoint.model_validate_json, kept.values()), key=lambda endpoint: endpoint.name)

    async def remove_oracle(self, name: str) -> None:
        with server_errors(_WHICH):
            await self._redis.hdel(names.REGISTRY_ORACLES, name)

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


class MemoryRegistry:
    """The registry of a single process."""

    def __init__(self) -> None:
        self._oracles: dict[str, OracleEndpoint] = {}
        self._runs: set[str] = set()

    async def put_oracle(self, endpoint: OracleEndpoint) -> None:
        self._oracles[endpoint.name] = endpoint

    async def oracles(self) -> list[OracleEndpoint]:
        return [self._oracles[name] for name in sorted(self._oracles)]

    async def remove_oracle(self, name: str) -> None:
        self._oracles.pop(name, None)

    async def put_run(self, run_id: str) -> None:
        self._runs.add(run_id)

    async def runs(self) -> list[str]:
        return sorted(self._runs)

    async def end_run(self, run_id: str) -> None:
        self._runs.discard(run_id)
