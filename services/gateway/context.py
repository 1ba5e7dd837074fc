"""What all routes share: the buffer, what is kept there, and how calls go out. One object a process.

    async with open_gateway(url, policy) as gateway:
        await oracles.register(gateway, registration, actor=OPERATOR)

The commands of a shell open it too: a route and a command are the same call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from redis.asyncio import Redis

from rewardmesh.wire.buffer import connect
from rewardmesh.wire.outgoing import OutgoingPolicy, open_client
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.registry import Registry
from rewardmesh.wire.stream import Stream
from services.gateway.audit import Audit
from services.gateway.tokens import Tokens

__all__ = ["Gateway", "open_gateway"]


class Gateway:
    """The buffer's registry, tokens, audit and streams, and the guarded way out."""

    def __init__(self, redis: Redis, policy: OutgoingPolicy) -> None:
        self.redis = redis
        self.registry = Registry(redis)
        self.tokens = Tokens(redis)
        self.audit = Audit(redis)
        self._policy = policy

    def stream(self, run_id: str) -> Stream:
        """The stream of a run; it need not be closed."""
        return open_redis_stream(self.redis, run_id)

    def http(self, timeout_s: float, *, secret: str | None = None) -> httpx.AsyncClient:
        """A client for addresses that the deployment allows, which sends the secret if there is one; close it."""
        headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
        return open_client(self._policy, timeout=httpx.Timeout(timeout_s), headers=headers)


@asynccontextmanager
async def open_gateway(redis_url: str, policy: OutgoingPolicy) -> AsyncIterator[Gateway]:
    """A gateway on a buffer; the connection is closed at the end. Raises: BufferUnavailable, BufferMisconfigured."""
    client = await connect(redis_url)
    try:
        yield Gateway(client, policy)
    finally:
        await client.aclose()
