"""The gateway as one ASGI app: the gate, the routes, one shape of error, and its own OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from rewardmesh import __version__
from rewardmesh.wire.outgoing import OutgoingPolicy
from services.gateway import amending, dead_letters, emulations, late, oracles, scoring, status
from services.gateway.answers import FAULTS, answer_faults
from services.gateway.context import open_gateway
from services.gateway.gate import MAX_BODY_BYTES, Gate
from services.gateway.openapi import document

__all__ = ["build_gateway"]


def build_gateway(redis_url: str, policy: OutgoingPolicy, *, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """The app. It connects to the buffer when it starts, and raises BufferUnavailable there if nothing answers."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_gateway(redis_url, policy) as gateway:
            app.state.gateway = gateway
            yield

    app = FastAPI(
        title="rewardmesh gateway",
        version=__version__,
        description="Oracles, pictures in, rewards out. Every route but /v1/health needs a token.",
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        responses=FAULTS,
        generate_unique_id_function=lambda route: route.name,  # what a generated client calls its functions
    )
    for part in (status, oracles, amending, scoring, late, dead_letters, emulations):
        app.include_router(part.router)
    answer_faults(app)
    app.add_middleware(Gate, max_body_bytes=max_body_bytes)
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # FastAPI's way to change the document
    return app
