"""The service as it is deployed: the app of `services.preference.app`, and the task that settles beside it.

Whoever serves it looks at `app.state.settling`: it runs as long as the service does, or the service is broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from fastapi import FastAPI

from services.preference.app import build_preference_app
from services.preference.context import Preference
from services.preference.settings import PreferenceSettings
from services.preference.settling import GatewayPost, Settling

__all__ = ["build_service"]


def build_service(
    settings: PreferenceSettings, opened: AbstractAsyncContextManager[Preference] | None = None
) -> FastAPI:
    """The app, which settles from its start to its end. It opens its parts as `build_preference_app` does."""
    app = build_preference_app(settings, opened)
    answering = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with answering(app), _settling(app.state.preference) as app.state.settling:
            yield

    app.router.lifespan_context = lifespan
    return app


@asynccontextmanager
async def _settling(preference: Preference) -> AsyncIterator[asyncio.Task[None]]:
    """The task that settles, cancelled at the end: what it had in hand is settled after the next start."""
    settings = preference.settings
    post = GatewayPost(settings.gateway_url, settings.gateway_token.get_secret_value())
    task = asyncio.create_task(Settling(preference.queue, post, every_s=settings.settle_every_s).run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        post.close()
