"""The service as it is deployed: the pages' app, the oracle's protocol below `/oracle`, and the task that settles.

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
    """The app, which answers the protocol and settles from its start to its end; `opened` as `build_preference_app`."""
    app = build_preference_app(settings, opened)
    pages = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with pages(app):
            preference: Preference = app.state.preference
            protocol = _protocol(preference)
            app.mount("/oracle", protocol)  # made here: its thread calls this loop
            async with protocol.router.lifespan_context(protocol), _settling(preference) as app.state.settling:
                yield

    app.router.lifespan_context = lifespan
    return app


def _protocol(preference: Preference) -> FastAPI:
    oracle, token = (
        PreferenceOracle(preference.queue, loop=asyncio.get_running_loop()),
        preference.settings.oracle_token,
    )
    return build_app(oracle, token=None if token is None else token.get_secret_value())


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
