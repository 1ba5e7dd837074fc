"""The HTTP side as one ASGI app: pages for raters and operators, JSON for programs, the oracle's protocol beside them.

    /            the pair before a rater        /api/…      the same as JSON
    /join/…      where an invite leads          /picture/…  pictures of pairs before one
    /operator…   what waits, and who answers    /oracle/…   the protocol of docs/protocol.md
    /static/…    script and style               /health     it answers

Nothing is kept here but connections: any number of replicas answers alike, and one may be killed at any time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from rewardmesh import __version__
from rewardmesh.kit.app import build_app
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import Message
from services.preference import api
from services.preference.context import Preference
from services.preference.faults import answer_faults
from services.preference.guard import Guard
from services.preference.oracle import PreferenceOracle
from services.preference.pages import operator, rater
from services.preference.pages.rendering import STATIC
from services.preference.redis_queue import RedisQueue
from services.preference.settings import PreferenceSettings

__all__ = ["build_preference_app", "open_preference"]


class Health(Message):
    """The service answers."""

    status: str


@asynccontextmanager
async def open_preference(settings: PreferenceSettings) -> AsyncIterator[Preference]:
    """The service's parts on its buffer. Raises: BufferUnavailable, BufferMisconfigured."""
    redis = await connect(settings.redis_url)
    try:
        yield Preference.on(redis, RedisQueue(redis, settings.queue), settings)
    finally:
        await redis.aclose()


def build_preference_app(
    settings: PreferenceSettings, opened: AbstractAsyncContextManager[Preference] | None = None
) -> FastAPI:
    """The app. It opens its parts when it starts: those of the settings, or those that are handed over."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opened or open_preference(settings) as preference:
            app.state.preference = preference
            oracle = _oracle_app(preference)
            app.mount("/oracle", oracle)
            async with oracle.router.lifespan_context(oracle):
                yield

    app = FastAPI(title="rewardmesh preference", version=__version__, lifespan=lifespan, openapi_url=None)
    for part in (api, rater, operator):
        app.include_router(part.router)
    app.add_api_route("/health", health)
    app.mount("/static", StaticFiles(directory=STATIC))
    answer_faults(app)
    app.add_middleware(Guard, base_path=settings.base_path)
    return app


def _oracle_app(preference: Preference) -> FastAPI:
    """The protocol's side; its scoring thread waits for coroutines of this loop."""
    token = preference.settings.oracle_token
    oracle = PreferenceOracle(preference.queue, loop=asyncio.get_running_loop())
    return build_app(oracle, token=None if token is None else token.get_secret_value())


async def health() -> Health:
    """The service answers."""
    return Health(status="ok")
