"""The preference service in a process of its own, that may be killed: one app for each of several settings.

    python -m benchmarks.people_app PORT < settings.json     a list; each answers below its own base_path
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import uvicorn
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from services.preference.app import build_preference_app
from services.preference.settings import PreferenceSettings

__all__ = ["app_of"]


def app_of(all_settings: Sequence[PreferenceSettings]) -> Starlette:
    """All of them, and `/v1/health`."""
    apps = {settings.base_path: build_preference_app(settings) for settings in all_settings}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for app in apps.values():
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    health = Route("/v1/health", lambda _: PlainTextResponse("ok"))
    return Starlette(routes=[health, *(Mount(path, app) for path, app in apps.items())], lifespan=lifespan)


if __name__ == "__main__":
    read = TypeAdapter(list[PreferenceSettings]).validate_json(sys.stdin.read())
    uvicorn.run(app_of(read), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False)
