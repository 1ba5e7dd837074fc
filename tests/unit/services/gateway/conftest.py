"""The gateway on real parts: a server, a worker, an oracle's app, and itself behind uvicorn on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from redis.asyncio import Redis

from benchmarks.served import serving
from reward_workers.process import worker_on_server
from reward_workers.settings import WorkerSettings
from reward_workers.worker import Worker
from rewardmesh.kit import conformance
from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import Oracle, OracleInput, Result, failed
from rewardmesh.wire.codec import PNG, encode_picture
from rewardmesh.wire.messages import OracleInfo, Scored
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.app import build_gateway
from services.gateway.audit import OPERATOR
from services.gateway.context import Gateway
from services.gateway.tokens import TokenRequest
from tests.contract.conftest import Server, binary_of


@pytest.fixture
def old_buffer(tmp_path: Path) -> Iterator[Server]:
    """The oldest server that is supported."""
    server = Server(binary_of("redis-6.2"), tmp_path / "old")
    server.start()
    yield server
    server.kill()


class Blue(Oracle):
    """The share of blue. A picture whose first pixel is all red cannot be judged."""

    def __init__(
        self, name: str = "blue", version: str = "1", granularity: Literal["sample", "group"] = "sample"
    ) -> None:
        self.info = OracleInfo(
            name=name,
            version=version,
            reward_min=0.0,
            reward_max=1.0,
            media_types=("image/png", "image/webp", "application/x-raw-rgb"),
            max_batch=8,
            granularity=granularity,
        )

    def score(self, batch: Sequence[OracleInput]) -> list[Result]:
        return [
            failed(one.sample, "oracle_error", "red")
            if tuple(one.picture[0, 0]) == (255, 0, 0)
            else Scored(sample_id=one.sample.sample_id, reward=float(one.picture[..., 2].mean() / 255))
            for one in batch
        ]


LOOPBACK = OutgoingPolicy.parse("127.0.0.0/8")


@dataclass
class Front:
    """A gateway that answers, what it stands on, and clients of it."""

    url: str
    gateway: Gateway

    async def token(self, *scopes: str, **wanted: Any) -> str:
        request = TokenRequest.model_validate({"team": "vision", "scopes": scopes, "requests_per_s": 10_000, **wanted})
        return (await self.gateway.tokens.create(request, actor=OPERATOR))[1]

    @contextlib.asynccontextmanager
    async def client(self, *scopes: str, **wanted: Any) -> AsyncIterator[httpx.AsyncClient]:
        headers = {"Authorization": f"Bearer {await self.token(*scopes, **wanted)}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=60) as client:
            yield client


@pytest.fixture(autouse=True)
def small_known_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every registration here probes with small pictures; the large ones are in the tests of the check itself."""
    monkeypatch.setattr(conformance, "SIDES", (8, 48))


@pytest.fixture
async def front(redis: Redis, buffer: Server) -> AsyncIterator[Front]:
    app = build_gateway(buffer.url, LOOPBACK, max_body_bytes=1_000_000)
    async with serving(app) as url:
        yield Front(url, app.state.gateway)


@pytest.fixture
async def blue() -> AsyncIterator[str]:
    """A real oracle app, on loopback."""
    async with serving(build_app(Blue())) as url:
        yield url


@pytest.fixture
async def worker(buffer: Server, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A real worker on the same buffer."""
    monkeypatch.setenv("REWARDMESH_ALLOWED_NETWORKS", "127.0.0.0/8")
    settings = WorkerSettings(redis_url=buffer.url, discover_every_s=0.1, claim_wait_s=0.1, lease_s=5, drain_s=1)
    async with worker_on_server(settings) as worker:
        task = asyncio.create_task(worker.run())
        yield worker
        worker.stop()
        await task


def png(shade: int = 128, *, red: bool = False) -> str:
    """A grey picture as base64 PNG; a red one is one that Blue fails."""
    picture = np.full((8, 8, 3), shade, np.uint8)
    if red:
        picture[:] = (255, 0, 0)
    return base64.b64encode(encode_picture(picture, PNG)).decode()
