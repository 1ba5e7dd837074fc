"""People as an oracle of the stack: what its service is told, and the secrets that are made for it."""

from __future__ import annotations

import asyncio

from pydantic import SecretStr

from deploy.settings import Settings
from deploy.state import keep_secret, kept_secret
from rewardmesh.wire.buffer import connect
from rewardmesh.wire.errors import TokenRefused
from services.gateway.audit import OPERATOR
from services.gateway.tokens import TokenRequest, Tokens
from services.preference.oracle import NAME
from services.preference.settings import PreferenceSettings

__all__ = ["link_secret", "preference_settings"]

_RATE_TOKEN = "preference-rate-token"  # noqa: S105 - a file's name


def link_secret(settings: Settings) -> SecretStr:
    """What signs invite links: REWARDMESH_PREFERENCE_SECRET, or the one that this run root keeps."""
    return settings.preference_secret or SecretStr(kept_secret(settings.state_dir, "preference-secret"))


def preference_settings(
    settings: Settings, *, redis_url: str, gateway_url: str, oracle_token: str
) -> PreferenceSettings:
    """What the service of this stack is told. Raises: BufferUnavailable."""
    return PreferenceSettings(
        redis_url=redis_url,
        queue=settings.preference_queue,
        secret=link_secret(settings),
        gateway_url=gateway_url,
        gateway_token=SecretStr(asyncio.run(_rate_token(settings, redis_url))),
        oracle_token=SecretStr(oracle_token),
    )


async def _rate_token(settings: Settings, redis_url: str) -> str:
    """The token that rewards are posted with: the one that is kept, or another where this buffer does not take it."""
    client = await connect(redis_url)
    try:
        tokens = Tokens(client)
        kept = settings.state_dir / _RATE_TOKEN
        try:
            text = kept.read_text().strip() if kept.exists() else ""
            await tokens.check(text)
            return text
        except TokenRefused:
            wanted = TokenRequest(team="preference", scopes=("rate",), oracle=NAME)
            _, text = await tokens.create(wanted, actor=OPERATOR)
            return keep_secret(settings.state_dir, _RATE_TOKEN, text)
    finally:
        await client.aclose()
