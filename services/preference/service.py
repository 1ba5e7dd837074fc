"""The whole service as one ASGI app: the pages' app, the oracle's protocol below `/oracle`, and the settling task.

    GET  /preference/oracle/v1/oracle       what the oracle is
    POST /preference/oracle/v1/score        takes a group over

Whoever serves it looks at `app.state.settling`: it runs as long as the service does, or the service is broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from fastapi import FastAPI

from rewardmesh.kit.app import build_app
from services.preference.app import build_preference_app
from services.preference.context import Preference
from services.preference.oracle import PreferenceOracle
from services.preference.settings import PreferenceSettings
from services.preference.settling import GatewayPost, Settling

__all__ = ["build_service"]


def build_service(
    settings: PreferenceSettings, opened: AbstractAsyncContextManager[Preference] | None = None
) -> FastAPI:
    """The app. It opens its parts when it starts, as `build_preference_app`, and answers the protocol from then on."""
    app = build_preference_app(settings, opened)
    pages = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with pages(app):
            preference: Preference = app.state.preference
            protocol = _protocol(preference, settings)
            app.mount("/oracle", protocol)  # made here: it calls this loop
            async with protocol.router.lifespan_context(protocol), _settling(preference, settings) as task:
                app.state.settling = task
                yield

    app.router.lifespan_context = lifespan
    return app


def _protocol(preference: Preference, settings: PreferenceSettings) -> FastAPI:
    oracle = PreferenceOracle(preference.queue, loop=asyncio.get_running_loop())
    token = None if settings.oracle_token is None else settings.oracle_token.get_secret_value()
    return build_app(oracle, token=token)


@asynccontextmanager
async def _settling(preference: Preference, settings: PreferenceSettings) -> AsyncIterator[asyncio.Task[None]]:
    """The task that settles, cancelled at the end: what it had in hand is settled after the next start."""
    post = GatewayPost(settings.gateway_url, settings.gateway_token.get_secret_value())
    task = asyncio.create_task(Settling(preference.queue, post, every_s=settings.settle_every_s).run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        post.close()
