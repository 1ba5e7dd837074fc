"""Claims and a real HTTP oracle for the parts of a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from reward_workers.client import OracleClient
from rewardmesh.wire.codec import raw_media_type
from rewardmesh.wire.messages import Checks, OracleEndpoint, Sample
from rewardmesh.wire.outgoing import OutgoingPolicy
from rewardmesh.wire.stream import Claim
from tests.oracle_server import OracleServer

LOOPBACK = OutgoingPolicy.parse("127.0.0.0/8, ::1/128")


def claim_of(
    sample_id: str, *, group_id: str = "g1", media_type: str | None = None, picture: bytes | None = None
) -> Claim:
    sample = Sample(
        run_id="run",
        group_id=group_id,
        sample_id=sample_id,
        policy_version=0,
        boundary_index=4,
        prompt="two red circles",
        checks=Checks.from_metadata({"tag": "counting", "include": [{"class": "circle", "count": 2, "color": "red"}]}),
    )
    return Claim(
        entry_id="1-0",
        sample=sample,
        media_type=media_type or raw_media_type(2, 1),
        picture=picture or bytes([51, 0, 0, 0, 0, 255]),
        hint=None,
        attempts=0,
        deliveries=1,
    )


@pytest.fixture
async def oracle() -> AsyncIterator[OracleServer]:
    async with OracleServer() as server:
        yield server


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[..., OracleClient]]:
    """Makes clients, with the deadline given in seconds, and closes them at the end."""
    clients: list[OracleClient] = []

    def make(server: OracleServer, *, deadline_s: float = 20.0, **how: Any) -> OracleClient:
        endpoint = OracleEndpoint(name=server.info.name, url=server.url, max_batch=8, deadline_s=deadline_s)
        clients.append(OracleClient(endpoint, **{"policy": LOOPBACK, **how}))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()
