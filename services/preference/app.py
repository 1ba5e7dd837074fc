"""People's side as one ASGI app: pages for raters and operators, JSON for programs. `service` adds the oracle's.

    /            the pair before a rater        /api/…      the same as JSON
    /join/…      where an invite leads          /picture/…  pictures of pairs before one
    /operator…   what waits, and who answers    /static/…   script and style
    /health      it answers

Nothing is kept here but connections: any number of replicas answers alike, and one may be killed at any time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from rewardmesh import __version__
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.messages import Message
from services.preference import api
from services.preference.context import Preference
from services.preference.faults import answer_faults
from services.preference.guard import Guard
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
            yield

    app = FastAPI(title="rewardmesh preference", version=__version__, lifespan=lifespan, openapi_url=None)
    for part in (api, rater, operator):
        app.include_router(part.router)
    app.add_api_route("/health", health)
    app.mount("/static", StaticFiles(directory=STATIC))
    answer_faults(app)
    app.add_middleware(Guard, base_path=settings.base_path)
    return app


async def health() -> Health:
    """The service answers."""
    return Health(status="ok")
