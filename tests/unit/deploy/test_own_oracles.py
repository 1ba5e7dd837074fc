"""The stack's own oracles in the registry: where they are is written anew, what an operator decided stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import FastAPI

from deploy import parts
from rewardmesh.kit.app import build_app
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway.context import open_gateway
from tests.contract.conftest import Server, binary_of
from tests.unit.services.gateway.conftest import Blue, serving


async def test_limits_and_state_survive_the_next_start(tmp_path: Path) -> None:
    app = FastAPI()
    app.mount("/oracles/blue", build_app(Blue(version="2")))
    server = Server(binary_of("valkey-9.1"), tmp_path / "server")
    server.start()
    try:
        async with serving(app) as url, open_gateway(server.url, OutgoingPolicy()) as gateway:
            for _ in range(2):
                said = await asyncio.to_thread(parts.register_oracles, server.url, ["blue"], serve_url=url, token="t")
                assert said == "blue 2"
            endpoint = await gateway.registry.oracle("blue")
            assert (endpoint.url, endpoint.max_batch, endpoint.state) == (f"{url}/oracles/blue", 8, "active")
            changed = endpoint.model_copy(update={"state": "paused", "concurrency": 5, "version": "1"})
            await gateway.registry.put_oracle(changed)
            await asyncio.to_thread(parts.register_oracles, server.url, ["blue"], serve_url=url, token="t")
            assert await gateway.registry.oracle("blue") == changed.model_copy(update={"version": "2"})
            lines = await gateway.audit.latest(10)
            assert [(line.action, line.subject) for line in lines] == [("oracle.register", "blue")] * 2
    finally:
        server.kill()
