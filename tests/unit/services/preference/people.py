"""The service over HTTP with its queue in memory, and those who come to it: by a link, with an invite, to run it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr
from redis.asyncio import Redis

from benchmarks.served import serving
from services.gateway.audit import OPERATOR, AuditLine
from services.gateway.tokens import TokenRequest
from services.preference.app import build_preference_app
from services.preference.context import Preference
from services.preference.invites import InviteRequest
from services.preference.memory_queue import MemoryQueue
from services.preference.model import QueueSettings
from services.preference.settings import PreferenceSettings

__all__ = ["Here", "serve"]

QUIET = QueueSettings(gold_share=0, repeat_share=0, min_look_s=0.5)
BASE = "/preference"


@dataclass
class Here:
    """The service and where it answers."""

    preference: Preference
    queue: MemoryQueue
    url: str

    @asynccontextmanager
    async def browser(self, link: str = "", **joining: str) -> AsyncIterator[httpx.AsyncClient]:
        """Cookies are kept, redirects followed; signed in by a link, if there is one."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, follow_redirects=True, timeout=30) as client:
            if link:
                joined = await client.post(f"/join/{link}", data=joining)
                assert joined.status_code == 200, joined.text
            yield client

    async def invite(self, **wanted: Any) -> str:
        """The text that a new invite's link ends with."""
        _, link = await self.preference.invites.create(InviteRequest(**wanted), actor=OPERATOR)
        return link

    async def admin_token(self, *scopes: str) -> str:
        request = TokenRequest.model_validate({"team": "ops", "scopes": scopes or ("admin",)})
        _, text = await self.preference.tokens.create(request, actor=OPERATOR)
        return text

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[httpx.AsyncClient]:
        async with self.browser() as client:
            answer = await client.post("/operator/signin", data={"token": await self.admin_token()})
            assert answer.status_code == 200, answer.text
            yield client

    async def refusals(self) -> list[AuditLine]:
        return await self.preference.refusals.latest(100)


@asynccontextmanager
async def serve(redis: Redis, settings: QueueSettings = QUIET) -> AsyncIterator[Here]:
    """Below a path, as on Ray Serve."""
    queue = MemoryQueue(settings)
    secrets = {"secret": SecretStr("s" * 32), "gateway_token": SecretStr("g" * 32)}
    at = PreferenceSettings(redis_url="unix:///nowhere", gateway_url="http://127.0.0.1:9", base_path=BASE, **secrets)
    preference = Preference.on(redis, queue, at)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Preference]:
        yield preference

    async with serving(build_preference_app(at, opened())) as url:
        yield Here(preference, queue, f"{url}{BASE}")


def hidden(page: str, name: str) -> str:
    """The value of a hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, f"no field {name} in {page}"
    return found[1]
