"""A real server for all tests of services, and an empty one for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from rewardmesh.wire.buffer import connect
from tests.contract.conftest import Server, binary_of


@pytest.fixture(scope="session")
def buffer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(binary_of("valkey-9.1"), tmp_path_factory.mktemp("buffer"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def redis(buffer: Server) -> AsyncIterator[Redis]:
    client = await connect(buffer.url)
    await client.flushall()
    yield client
    await client.aclose()
